"""What a connection drops from, and sets in, every body that goes to its provider."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE connections ADD COLUMN params jsonb NOT NULL DEFAULT '{}'")


def downgrade() -> None:
    op.execute("ALTER TABLE connections DROP COLUMN params")
