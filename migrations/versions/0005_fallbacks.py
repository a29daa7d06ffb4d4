"""Where a call goes on when its model's provider fails."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("CREATE TABLE fallbacks (name text PRIMARY KEY, targets jsonb NOT NULL)")


def downgrade() -> None:
    op.execute("DROP TABLE IF EXISTS fallbacks")
