"""What the generations of Claude take, by their names: the API is one, what it refuses differs from model to model.

Sources: anthropics/skills claude-api (2026-07) and, of 5.5, platform.claude.com/docs/en/models/sonnet-5-5/migration-guide and
/haiku-5-5/migration-guide (2026-11).
"""

from __future__ import annotations

import re

from shared.domain.catalogue import Model
from shared.wire.canonical import Call
from shared.wire.envelope import invalid_field

_MODERN = re.compile(r"claude-(?:opus-4-[78]|(?:opus|sonnet|haiku|fable|mythos)-[5-9])")
_NO_PREFILL = re.compile(r"claude-(?:(?:opus|sonnet)-4-[6-9]|(?:opus|sonnet|haiku|fable|mythos)-[5-9])")
_UNFORCED = re.compile(r"claude-(?:(?:opus|sonnet)-5-5|fable-5-1)")
_QUIET: tuple[tuple[re.Pattern[str], str | None], ...] = (
    (re.compile(r"claude-sonnet-5-5"), "between_tools"),
    (re.compile(r"claude-(?:opus-5-5|fable-5-1)"), None),
    (re.compile(r"claude-(?:sonnet-5|haiku-5-5)"), "disabled"),
)


def is_modern(model: Model) -> bool:
    """Whether sampling parameters and thinking budgets are refused; thinking is adaptive then."""
    return _MODERN.search(model.sent_id) is not None


def takes_prefill(model: Model) -> bool:
    """Whether a call may end with the beginning of the answer."""
    return _NO_PREFILL.search(model.sent_id) is None


def thinks_unasked(model: Model) -> bool:
    """Whether a call without a word about thinking is thought over."""
    return any(pattern.search(model.sent_id) for pattern, _ in _QUIET)


def quiet(model: Model) -> str | None:
    """The type of `thinking` with which a model that thinks unasked does so least; None: it always does."""
    return next((kind for pattern, kind in _QUIET if pattern.search(model.sent_id)), None)


def require_unforced(call: Call, model: Model) -> None:
    """Raises Refused where a tool is forced on a model that cannot be made to call one."""
    forced = call.tools and call.tool_choice is not None and call.tool_choice.mode in ("any", "tool")
    if forced and _UNFORCED.search(model.sent_id):
        field = call.named("tool_choice")
        raise invalid_field(field, f"{model.model_id} cannot be made to call a tool: leave '{field}' out, or let it choose.")
