"""Names that stand for models."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("CREATE TABLE aliases (name text PRIMARY KEY, target text NOT NULL)")


def downgrade() -> None:
    op.execute("DROP TABLE IF EXISTS aliases")
