"""Locate: where the running installation of a data directory is. The environment wins over what `up` wrote down."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from shared.settings import Settings, SettingsError


def engines_file(data_dir: Path) -> Path:
    """What `up` writes for other commands: addresses with passwords, so only its owner may read it."""
    return data_dir / "run" / "engines.json"


def secret_file(data_dir: Path) -> Path:
    return data_dir / "secret.key"


def write(data_dir: Path, addresses: dict[str, str]) -> None:
    path = engines_file(data_dir)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(addresses | {"pid": str(os.getpid())}, file)
    draft.replace(path)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def locate(settings: Settings) -> Settings:
    """Settings with addresses and secret filled in. Raises SettingsError when there is nothing to find."""
    known: dict[str, str] = {}
    path = engines_file(settings.data_dir)
    if path.exists():
        try:
            known = json.loads(path.read_text())
            if not alive(int(known["pid"])):
                known = {}  # a killed `up` could not take its addresses back
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{path} cannot be read: is it yours? ({error})") from None
    found: dict[str, str] = {
        name: known[name]
        for name in ("database_url", "redis_url", "simulator_url")
        if not getattr(settings, name) and name in known
    }
    if not settings.secret_key and not settings.secret_key_file and secret_file(settings.data_dir).exists():
        found["secret_key_file"] = str(secret_file(settings.data_dir))
    settings = replace(settings, **found)  # type: ignore[arg-type]
    if not settings.database_url or not settings.redis_url:
        raise SettingsError(
            f"nothing runs in {settings.data_dir}: start it with `waystation up`, or set DATABASE_URL and REDIS_URL"
        )
    return settings
