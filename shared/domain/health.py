"""Health: what keeps calls from a deployment or a connection for a while, and the numbers that decide when."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec


class ProfileKind(StrEnum):
    """How a connection's provider misbehaves: by how it is paid for, and where it runs."""

    API_KEY = "api_key"
    OAUTH = "oauth"
    LOCAL = "local"


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """When a breaker opens and for how long; how long a 429 without Retry-After cools a connection down."""

    failures: float = 5
    """In a row, from all nodes together. An overloaded provider's answer (503, 529) counts half."""
    error_share: float = 0.5
    """Of the calls of the window, at which it opens though some succeed."""
    least_calls: int = 20
    """Below so many calls in the window, the share says nothing."""
    window_s: float = 30.0
    open_s: float = 30.0
    """The first time; twice as long after each probe that fails."""
    longest_open_s: float = 300.0
    cooldown_s: float = 1.0
    """The first time; twice as long after each cooldown that did not help."""
    longest_cooldown_s: float = 60.0


PROFILES = {
    ProfileKind.API_KEY: Profile(),
    ProfileKind.OAUTH: Profile(failures=3, open_s=60.0, longest_open_s=600.0, cooldown_s=60.0, longest_cooldown_s=600.0),
    ProfileKind.LOCAL: Profile(failures=2, least_calls=10, open_s=15.0, longest_open_s=60.0, longest_cooldown_s=10.0),
}


class MarkState(StrEnum):
    OPEN = "open"
    HALF_OPEN = "half_open"
    COOLING = "cooling"
    LOCKED = "locked"


class Mark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is wrong with a deployment (open, half_open) or a connection (cooling, locked). Times are Redis' own, in Unix ms."""

    state: MarkState
    since_ms: int
    """When it stopped being well; later openings and cooldowns in a row do not change it."""
    until_ms: int
    """Open: when a probe is due. Cooling: when it is over. Locked: when the credential is tried again."""
    epoch: int
    """Higher with every transition: a probe's end that names another one comes too late."""
    trips: int = 1
    """Open: how many times in a row; cooling: likewise."""
    lease_ms: int = 0
    """A probe is under way until then at the latest; 0: none is."""
    rule: str = ""
    """Of a breaker, what opened it: `row`, `share` or `probe`."""
    cause: str = ""
    """The FailureClass behind it."""
    status: int = 0
    """The provider's, when it answered."""
    version: int = 0
    """Of the credential that was refused."""
    connection: str = ""
    """The connection's name, for people; likewise `model` (`prefix/model-id`, of a deployment) and `provider`."""
    model: str = ""
    provider: str = ""

    @property
    def due_ms(self) -> int:
        """When a probe may be claimed."""
        return max(self.until_ms, self.lease_ms)

    def reason(self) -> str:
        """For people; never a provider's own words."""
        answered = f", the provider answered {self.status}" if self.status else ""
        match self.state:
            case MarkState.OPEN | MarkState.HALF_OPEN:
                return f"{RULES.get(self.rule, 'failing')} ({self.cause}{answered})"
            case MarkState.COOLING:
                return f"the provider limits its calls ({self.cause}{answered})"
            case MarkState.LOCKED:
                what = "the account is out of credit" if self.cause == "quota" else "the credential was refused"
                return f"{what} ({self.cause}{answered})"


RULES = {"row": "too many failures in a row", "share": "too large a share of failures", "probe": "the last probe failed"}


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Why a deployment should not get an ordinary call now."""

    state: Literal["open", "half_open_due", "cooling", "locked"]
    until_s: float
    """By this node's clock."""
    reason: str
