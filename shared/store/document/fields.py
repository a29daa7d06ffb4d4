"""Fields that the entries of a document share, and what makes one wrong."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from shared.domain.catalogue import API_VERSION, Params
from shared.domain.money import usd_to_nano
from shared.wire.params import guarded


class DocumentError(Exception):
    """One line per fault: `gateway.yaml:12 connections[0].base_url: …`."""


def read_usd(value: object) -> int:
    """USD, as a string or number, in nano-USD."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise ValueError('must be an amount of USD, like 5 or "0.15"')
    return usd_to_nano(str(value))


def valid_reference(value: str) -> str:
    if re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+", value) is None:
        raise ValueError("must be env:NAME or file:PATH, never the secret itself")
    return value


def valid_base_url(value: str) -> str:
    if re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value) is None:
        raise ValueError("must be a URL like https://host/v1, without user, query or fragment")
    return value.rstrip("/")


def valid_api_version(value: object) -> str:
    """YAML and TOML read `2024-10-21` as a date."""
    text = value.isoformat() if type(value) is date else value
    if type(text) is not str or API_VERSION.fullmatch(text) is None:
        raise ValueError("must be letters, digits, dots and dashes, like 2024-10-21")
    return text


def valid_prefix(value: str) -> str:
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", value) is None:
        raise ValueError("must be lower-case letters, digits, dots or dashes")
    return value


def _touchable(value: tuple[str, ...] | dict[str, Any]) -> Any:
    name = guarded(Params(set=value) if isinstance(value, dict) else Params(drop=value))
    if name is not None:
        raise ValueError(f"{name!r} decides about routing or money and cannot be dropped or set")
    return value


DropParams = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], AfterValidator(_touchable)]

SetParams = Annotated[dict[str, Any], AfterValidator(_touchable)]

NanoUsd = Annotated[int, BeforeValidator(read_usd)]

Positive = Annotated[int, Field(gt=0, le=10**12)]

Seconds = Annotated[float, Field(gt=0, le=3600)]

Name = Annotated[str, Field(min_length=1, max_length=100)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
