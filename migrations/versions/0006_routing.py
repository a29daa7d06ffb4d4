"""Routes, how a prefix's accounts are chosen among, limits and profiles of connections, network proxies, what keys may use, and
the decision behind each call."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("CREATE TABLE routes (name text PRIMARY KEY, route jsonb NOT NULL)")
    op.execute("CREATE TABLE accounts (prefix text PRIMARY KEY, choice jsonb NOT NULL)")
    op.execute(
        """
        CREATE TABLE proxies (
          scope text NOT NULL,
          name text NOT NULL,
          sealed_url bytea NOT NULL,
          version integer NOT NULL DEFAULT 1,
          PRIMARY KEY (scope, name)
        )
        """
    )
    op.execute("ALTER TABLE connections ADD COLUMN settings jsonb NOT NULL DEFAULT '{}'")
    op.execute("ALTER TABLE keys ADD COLUMN policy jsonb NOT NULL DEFAULT '{}'")
    op.execute("ALTER TABLE usage_events ADD COLUMN decision jsonb")


def downgrade() -> None:
    op.execute("ALTER TABLE usage_events DROP COLUMN decision")
    op.execute("ALTER TABLE keys DROP COLUMN policy")
    op.execute("ALTER TABLE connections DROP COLUMN settings")
    for table in ("proxies", "accounts", "routes"):
        op.execute(f"DROP TABLE IF EXISTS {table}")
