"""Models added at run time, models that connections were seen to offer, and keys that may administer."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("ALTER TABLE keys ADD COLUMN admin boolean NOT NULL DEFAULT false")
    op.execute(
        """
        CREATE TABLE provider_models (
          provider text NOT NULL,
          model_id text NOT NULL,
          name text NOT NULL,
          source text NOT NULL,
          model jsonb NOT NULL,
          created_at timestamptz NOT NULL DEFAULT now(),
          PRIMARY KEY (provider, model_id)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE offered_models (
          connection_id text NOT NULL REFERENCES connections ON DELETE CASCADE,
          model_id text NOT NULL,
          first_seen_at timestamptz NOT NULL DEFAULT now(),
          last_seen_at timestamptz NOT NULL DEFAULT now(),
          PRIMARY KEY (connection_id, model_id)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE IF EXISTS offered_models, provider_models")
    op.execute("ALTER TABLE keys DROP COLUMN admin")
