"""Tenants, configuration, the usage ledger."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

TENANCY = """
CREATE TABLE organisations (
  id text PRIMARY KEY,
  name text NOT NULL UNIQUE,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE teams (
  id text PRIMARY KEY,
  organisation_id text NOT NULL REFERENCES organisations,
  name text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (organisation_id, name)
);
CREATE TABLE users (
  id text PRIMARY KEY,
  organisation_id text NOT NULL REFERENCES organisations,
  name text NOT NULL,
  role text NOT NULL,
  password_hash text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (organisation_id, name)
);
CREATE TABLE keys (
  id text PRIMARY KEY,
  public_id text NOT NULL UNIQUE,
  organisation_id text NOT NULL REFERENCES organisations,
  team_id text NOT NULL REFERENCES teams,
  name text NOT NULL,
  last4 text NOT NULL,
  digest bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  epoch bigint NOT NULL
);
CREATE INDEX keys_by_epoch ON keys (epoch);
CREATE TABLE limits (
  scope text NOT NULL,
  scope_id text NOT NULL,
  requests_per_minute bigint CHECK (requests_per_minute > 0),
  tokens_per_minute bigint CHECK (tokens_per_minute > 0),
  concurrent_requests bigint CHECK (concurrent_requests > 0),
  burst_requests bigint CHECK (burst_requests >= 0),
  burst_tokens bigint CHECK (burst_tokens >= 0),
  mode text NOT NULL,
  PRIMARY KEY (scope, scope_id)
);
CREATE TABLE budgets (
  id text PRIMARY KEY,
  scope text NOT NULL,
  scope_id text NOT NULL,
  limit_nano_usd bigint NOT NULL CHECK (limit_nano_usd >= 0),
  period text NOT NULL,
  hard boolean NOT NULL,
  UNIQUE (scope, scope_id, period)
);
"""

CONFIGURATION = """
CREATE TABLE connections (
  id text PRIMARY KEY,
  name text NOT NULL UNIQUE,
  provider text NOT NULL,
  prefix text NOT NULL,
  base_url text NOT NULL,
  organisation_id text REFERENCES organisations,
  sealed_credential bytea,
  credential_version integer NOT NULL DEFAULT 0,
  models jsonb NOT NULL DEFAULT '[]',
  timeouts jsonb NOT NULL DEFAULT '{}'
);
CREATE TABLE prices (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  model text NOT NULL,
  version text NOT NULL,
  price jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX prices_by_model ON prices (model, id);
CREATE TABLE configuration_epoch (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  epoch bigint NOT NULL
);
INSERT INTO configuration_epoch (epoch) VALUES (0);
CREATE TABLE audit_log (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  actor text NOT NULL,
  action text NOT NULL,
  subject text NOT NULL,
  detail jsonb NOT NULL DEFAULT '{}'
);
"""

LEDGER = """
CREATE TABLE usage_events (
  event_id uuid NOT NULL,
  entry smallint NOT NULL CHECK (entry IN (0, 1)),
  occurred_at timestamptz NOT NULL,
  booked_at timestamptz NOT NULL DEFAULT now(),
  kind text NOT NULL,
  organisation_id text NOT NULL,
  team_id text NOT NULL,
  key_id text NOT NULL,
  provider text NOT NULL,
  connection text NOT NULL,
  model text NOT NULL,
  operation text NOT NULL,
  stream boolean NOT NULL,
  outcome text NOT NULL,
  source text NOT NULL,
  input_tokens bigint NOT NULL,
  output_tokens bigint NOT NULL,
  cache_read_tokens bigint NOT NULL,
  cache_write_tokens bigint NOT NULL,
  reasoning_tokens bigint NOT NULL,
  cost_nano_usd bigint NOT NULL,
  unpriced boolean NOT NULL,
  price_version text NOT NULL,
  attempts integer NOT NULL,
  duration_ms bigint NOT NULL,
  first_token_ms bigint,
  request_id text NOT NULL,
  node text NOT NULL,
  CHECK (entry = 1 OR (cost_nano_usd >= 0 AND input_tokens >= 0 AND output_tokens >= 0)),
  PRIMARY KEY (event_id, entry, occurred_at)
) PARTITION BY RANGE (occurred_at);
CREATE TABLE usage_events_default PARTITION OF usage_events DEFAULT;
CREATE INDEX usage_events_by_time ON usage_events USING brin (occurred_at);
CREATE TABLE usage_hourly (
  hour timestamptz NOT NULL,
  organisation_id text NOT NULL,
  team_id text NOT NULL,
  key_id text NOT NULL,
  provider text NOT NULL,
  connection text NOT NULL,
  model text NOT NULL,
  requests bigint NOT NULL,
  errors bigint NOT NULL,
  estimated bigint NOT NULL,
  unpriced bigint NOT NULL,
  input_tokens bigint NOT NULL,
  output_tokens bigint NOT NULL,
  cache_read_tokens bigint NOT NULL,
  cache_write_tokens bigint NOT NULL,
  reasoning_tokens bigint NOT NULL,
  cost_nano_usd numeric(30) NOT NULL,
  PRIMARY KEY (hour, organisation_id, team_id, key_id, provider, connection, model)
);
CREATE INDEX usage_hourly_by_organisation ON usage_hourly (organisation_id, hour);
CREATE TABLE usage_daily (LIKE usage_hourly INCLUDING DEFAULTS);
ALTER TABLE usage_daily RENAME COLUMN hour TO day;
ALTER TABLE usage_daily ADD PRIMARY KEY (day, organisation_id, team_id, key_id, provider, connection, model);
CREATE TABLE usage_dead (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  stream_id text NOT NULL UNIQUE,
  reason text NOT NULL,
  body bytea NOT NULL
);
"""


def upgrade() -> None:
    for block in (TENANCY, CONFIGURATION, LEDGER):
        for statement in block.split(";\n"):
            if statement.strip():
                op.execute(statement)


def downgrade() -> None:
    for table in (
        "usage_dead", "usage_daily", "usage_hourly", "usage_events", "audit_log", "configuration_epoch", "prices",
        "connections", "budgets", "limits", "keys", "users", "teams", "organisations",
    ):  # fmt: skip
        op.execute(f"DROP TABLE IF EXISTS {table} CASCADE")
