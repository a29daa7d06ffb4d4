"""Configuration as data: what a snapshot is built from."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shared.domain.catalogue import Connection, Model
from shared.domain.limits import Budget, Limit
from shared.domain.money import Price
from shared.domain.policy import KeyPolicy
from shared.domain.proxy import ProxyRow
from shared.domain.routing import Choice, Route


class KeyRow(msgspec.Struct, frozen=True):
    """A key as stored. `expires_at_s` and `revoked` decide; the digest recognises."""

    key_id: str
    public_id: str
    organisation_id: str
    team_id: str
    name: str
    digest: bytes
    expires_at_s: float | None
    revoked: bool
    admin: bool = False
    """Whether it may change the installation's configuration."""
    policy: KeyPolicy | None = None
    """None: it may use whatever its organisation may."""


class Configuration(msgspec.Struct, frozen=True):
    """Everything at one epoch; of keys, those that changed after the epoch that was asked for."""

    epoch: int
    keys: tuple[KeyRow, ...]
    limits: tuple[Limit, ...]
    budgets: tuple[Budget, ...]
    connections: tuple[Connection, ...]
    prices: Mapping[str, Price]
    models: Mapping[str, Mapping[str, Model]] = {}
    """By provider and id: what was added to the catalogue at run time."""
    aliases: Mapping[str, str] = {}
    """Name or pattern → `prefix/model`."""
    fallbacks: Mapping[str, tuple[str, ...]] = {}
    """`prefix/model` or `*` → the models to go on with."""
    routes: tuple[Route, ...] = ()
    accounts: Mapping[str, Choice] = {}
    """Prefix → how to choose among its connections."""
    proxies: tuple[ProxyRow, ...] = ()
