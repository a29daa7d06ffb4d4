"""The operator's document: `gateway.yaml` (or .toml) as typed data, or an error that names file, line and key."""

from __future__ import annotations

from shared.store.document.connections import (
    ConnectionEntry,
    DataPolicyEntry,
    ModelEntry,
    PriceEntry,
    ProfileEntry,
    QueueEntry,
    QuotaEntry,
    UpstreamLimitsEntry,
)
from shared.store.document.document import Document
from shared.store.document.fields import DocumentError, Strict
from shared.store.document.read import parse
from shared.store.document.routes import ChoiceEntry, ProxiesEntry, RouteEntry, TargetEntry
from shared.store.document.tenants import (
    BudgetEntry,
    CeilingEntry,
    LimitEntry,
    OrganisationEntry,
    PolicyEntry,
    Scoped,
    parse_budget,
    parse_ceiling,
)

__all__ = [
    "BudgetEntry", "CeilingEntry", "ChoiceEntry", "ConnectionEntry", "DataPolicyEntry", "Document", "DocumentError",
    "LimitEntry", "ModelEntry", "OrganisationEntry", "PolicyEntry", "PriceEntry", "ProfileEntry", "ProxiesEntry",
    "QueueEntry", "QuotaEntry", "RouteEntry", "Scoped", "Strict", "TargetEntry", "UpstreamLimitsEntry", "parse",
    "parse_budget", "parse_ceiling",
]  # fmt: skip
