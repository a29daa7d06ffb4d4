"""Extensions: what OpenRouter's clients ask of the gateway at /api/v1, beside `models` and `provider` (preferences.py).

    transforms      `["middle-out"]` shortens a prompt that is too long (middle_out.py), `[]` does not
    plugins         `context-compression` says the same in newer words; others are OpenRouter's own
    preset          OpenRouter's own
    session_id      calls of one session stay together

What is OpenRouter's own is not left out in silence: only a deployment at OpenRouter is asked for it, and without one the call
is refused by the name of the field.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from shared.domain.policy import Foreign
from shared.wire.envelope import Envelope, invalid_field, wrong_type

FIELDS = frozenset({"transforms", "plugins", "preset", "session_id"})
MIDDLE_OUT = "middle-out"
COMPRESSION = "context-compression"
MOST_SESSION_CHARS = 256
PRESET = "@preset/"
"""In a model's name."""


class Extensions(msgspec.Struct, frozen=True, kw_only=True):
    """`compress` None: the call does not say, and a deployment's context decides. `foreign`: what only OpenRouter can do."""

    compress: bool | None = None
    session: str | None = None
    foreign: tuple[Foreign, ...] = ()


def read_extensions(envelope: Envelope, session: str | None = None, operation: str = "chat") -> Extensions | None:
    """None when the call has none. `session`: of the header `x-session-id`; the body's goes first. Raises Refused, naming the
    field."""
    fields = envelope.fields
    if session is None and FIELDS.isdisjoint(fields):
        return None
    told = {name: orjson.loads(bytes(fields[name])) for name in FIELDS if name in fields}
    compress = _transforms(told.get("transforms"))
    by_plugin, foreign = _plugins(told.get("plugins"))
    if operation != "chat" and (compress or by_plugin):
        name = "plugins" if by_plugin else "transforms"
        raise invalid_field(name, f"Only the messages of a chat have a middle that can be left out: leave {name!r} out.")
    preset = _text(told, "preset")
    if preset is not None:
        foreign = (*foreign, Foreign("preset", f"there is no preset {preset[:64]!r} here: leave 'preset' out"))
    found = Extensions(
        compress=compress if by_plugin is None else by_plugin,
        session=_session(_text(told, "session_id"), session),
        foreign=foreign,
    )
    return None if found == NONE else found


NONE = Extensions()


def foreign_in(name: str) -> tuple[Foreign, ...]:
    """A preset in a model's name."""
    _, at, preset = name.partition(PRESET)
    if not at:
        return ()
    return (Foreign("model", f"there is no preset {preset[:64]!r} here: name the model itself, without '{PRESET}…'"),)


def _transforms(value: Any) -> bool | None:
    if value is None:
        return None
    if type(value) is not list:
        raise wrong_type("transforms", "an array of strings", value)
    for at, each in enumerate(value):
        if each != MIDDLE_OUT:
            raise invalid_field(
                f"transforms[{at}]", f"Invalid value for 'transforms[{at}]': '{MIDDLE_OUT}' is the only transform here."
            )
    return bool(value)


def _plugins(value: Any) -> tuple[bool | None, tuple[Foreign, ...]]:
    """What the plugins say of compression, and those that are not here."""
    if value is None:
        return None, ()
    if type(value) is not list:
        raise wrong_type("plugins", "an array of objects", value)
    compress: bool | None = None
    foreign = []
    for at, each in enumerate(value):
        if type(each) is not dict:
            raise wrong_type(f"plugins[{at}]", "an object", each)
        name, enabled = each.get("id"), each.get("enabled")
        if type(name) is not str:
            raise wrong_type(f"plugins[{at}].id", "a string", name)
        if enabled is not None and type(enabled) is not bool:
            raise wrong_type(f"plugins[{at}].enabled", "a boolean", enabled)
        if name == COMPRESSION:
            engine = each.get("engine")
            if engine not in (None, MIDDLE_OUT):
                raise invalid_field(
                    f"plugins[{at}].engine", f"Invalid value for 'plugins[{at}].engine': '{MIDDLE_OUT}' is the only one here."
                )
            compress = enabled is not False
        elif enabled is not False:
            foreign.append(Foreign("plugins", f"there is no plugin {name[:64]!r} here: leave it out of 'plugins'"))
    return compress, tuple(foreign)


def _session(of_body: str | None, of_header: str | None) -> str | None:
    name = "x-session-id" if of_body is None else "session_id"
    session = of_header if of_body is None else of_body
    if session is not None and len(session) > MOST_SESSION_CHARS:
        raise invalid_field(name, f"Invalid value for {name!r}: expected at most {MOST_SESSION_CHARS} characters.")
    return session or None


def _text(told: dict[str, Any], name: str) -> str | None:
    value = told.get(name)
    if value is not None and type(value) is not str:
        raise wrong_type(name, "a string", value)
    return value
