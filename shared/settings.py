"""Settings: the environment, read once at start; a change needs a restart. Configuration is something else: it lives in
Postgres and reaches nodes as snapshots.

Every setting is `WAYSTATION_<NAME>`; `DATABASE_URL` and `REDIS_URL` go without prefix, as everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

DEFAULT_PORT = 20128
DEFAULT_SIMULATOR_PORT = 20127


class SettingsError(Exception):
    """A setting that cannot be used; the message names it and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a process needs to know before it can read its configuration. Times in seconds, sizes in bytes."""

    data_dir: Path = field(default_factory=lambda: Path.home() / ".local" / "share" / "waystation")
    database_url: str = ""
    redis_url: str = ""
    secret_key: str = field(default="", repr=False)
    secret_key_file: str = ""
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    simulator_url: str = ""
    """Where `demo/` models are served; `up` sets it."""
    log_level: str = "info"
    max_body_bytes: int = 32 * 1024 * 1024
    max_reply_bytes: int = 64 * 1024 * 1024
    max_in_flight: int = 4096
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    deadline_s: float = 600.0
    """Within so long a stream must have begun and any other answer be whole; a route or `x-waystation-deadline-s` may say less
    or more."""
    keepalive_s: float = 12.0
    """A stream that is silent for so long gets something that its clients ignore."""
    grace_s: float = 600.0
    drain_delay_s: float = 0.0
    """How long a node goes on accepting after readiness turned to 503, so that balancers notice."""
    redis_deadline_s: float = 0.25
    responses_kept_s: int = 86_400
    """How long an answer of /v1/responses is kept for `previous_response_id`; 0: not at all."""
    public_models: bool = False
    """Whether /api/v1/models answers without a key: with the models that every organisation may use."""
    decisions_kept_days: int = 30
    """How long the decision behind a call is kept with its usage event."""
    fetch_private_addresses: bool = False
    """Whether URLs of media may lead to private addresses and over http: for development."""
    metrics_port: int = 0
    """A worker's own /metrics; 0: none."""
    otlp_endpoint: str = ""
    """OTLP over HTTP, e.g. http://collector:4318; empty: no traces."""

    @staticmethod
    def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
        """Raises SettingsError that names the variable."""
        source = os.environ if environment is None else environment
        values: dict[str, object] = {}
        for entry in fields(Settings):
            name = _variable(entry.name)
            raw = source.get(name)
            if raw is not None and raw != "":
                values[entry.name] = _parse(name, raw, str(entry.type))
        return Settings(**values)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        """Where the ingress answers, as seen from this machine."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
        host = everywhere.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def secret(self) -> str:
        """The installation's secret, from the variable or the file. Raises SettingsError when there is none."""
        if self.secret_key and self.secret_key_file:
            raise SettingsError("WAYSTATION_SECRET_KEY and WAYSTATION_SECRET_KEY_FILE are both set: keep one")
        if self.secret_key:
            return self.secret_key
        if not self.secret_key_file:
            raise SettingsError("set WAYSTATION_SECRET_KEY or WAYSTATION_SECRET_KEY_FILE: nothing starts without")
        try:
            return Path(self.secret_key_file).read_text().strip()
        except OSError as error:
            raise SettingsError(f"WAYSTATION_SECRET_KEY_FILE: cannot read it: {error.strerror}") from error


def _flag(name: str, raw: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if raw.lower() not in known:
        raise SettingsError(f"{name}: must be true or false, got {raw!r}")
    return known[raw.lower()]


def _variable(field_name: str) -> str:
    if field_name in ("database_url", "redis_url"):
        return field_name.upper()
    return f"WAYSTATION_{field_name.upper()}"


def _parse(name: str, raw: str, kind: str) -> object:
    try:
        match kind:
            case "int":
                number: float = int(raw)
            case "float":
                number = float(raw)
            case "Path":
                return Path(raw).expanduser()
            case "bool":
                return _flag(name, raw)
            case _:
                return raw
    except ValueError as error:
        raise SettingsError(f"{name}: {raw!r} is not a number") from error
    if number < 0:
        raise SettingsError(f"{name}: must not be negative, got {raw}")
    return number
