"""Fields: typed reading of a client's parsed body. What is of the wrong type is refused under the client's own name."""

from __future__ import annotations

from typing import Any

from shared.wire.envelope import invalid_field, wrong_type

Values = dict[str, Any]


def text(values: Values, name: str, path: str = "") -> str | None:
    """A string; None when absent or null. Raises Refused."""
    value = values.get(name)
    if value is None or type(value) is str:
        return value
    raise wrong_type(path + name, "a string", value)


def needed_text(values: Values, name: str, path: str = "") -> str:
    value = text(values, name, path)
    if value is None:
        raise invalid_field(path + name, f"Missing required field {path + name!r}: it must be a string.")
    return value


def integer(values: Values, name: str, path: str = "", least: int | None = None, most: int | None = None) -> int | None:
    """A whole number within bounds; None when absent or null. Raises Refused."""
    value = values.get(name)
    if value is None:
        return None
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise wrong_type(path + name, "an integer", value)
    if (least is not None and value < least) or (most is not None and value > most):
        bounds = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise invalid_field(path + name, f"Invalid value for {path + name!r}: expected an integer {bounds}.")
    return value


def number(values: Values, name: str, path: str = "") -> float | None:
    """A number; None when absent or null. Raises Refused."""
    value = values.get(name)
    if value is None:
        return None
    if type(value) not in (int, float):
        raise wrong_type(path + name, "a number", value)
    return value  # type: ignore[no-any-return]


def flag(values: Values, name: str, path: str = "") -> bool | None:
    value = values.get(name)
    if value is None or type(value) is bool:
        return value
    raise wrong_type(path + name, "a boolean", value)


def table(values: Values, name: str, path: str = "") -> Values | None:
    """An object; None when absent or null. Raises Refused."""
    value = values.get(name)
    if value is None or type(value) is dict:
        return value
    raise wrong_type(path + name, "an object", value)


def array(values: Values, name: str, path: str = "") -> list[Any] | None:
    """An array; None when absent or null. Raises Refused."""
    value = values.get(name)
    if value is None or type(value) is list:
        return value
    raise wrong_type(path + name, "an array", value)


def tables(values: Values, name: str, path: str = "") -> list[tuple[str, Values]]:
    """An array of objects, each with the path of its fields (`messages[2].`). Raises Refused."""
    found = []
    for index, item in enumerate(array(values, name, path) or ()):
        if type(item) is not dict:
            raise wrong_type(f"{path}{name}[{index}]", "an object", item)
        found.append((f"{path}{name}[{index}].", item))
    return found


def texts(values: Values, name: str, path: str = "") -> list[str]:
    """An array of strings, or one string. Raises Refused."""
    value = values.get(name)
    if value is None:
        return []
    if type(value) is str:
        return [value]
    if type(value) is not list or any(type(item) is not str for item in value):
        raise wrong_type(path + name, "a string or an array of strings", value)
    return value


def one_of(values: Values, name: str, allowed: tuple[str, ...], path: str = "") -> str | None:
    """A string of a closed list. Raises Refused."""
    value = text(values, name, path)
    if value is not None and value not in allowed:
        raise invalid_field(
            path + name, f"Invalid value for {path + name!r}: {value[:64]!r} is none of {', '.join(map(repr, allowed))}."
        )
    return value


def camel(values: Values) -> Values:
    """The object with camelCase keys; the values are not touched."""
    return {_camel(name): value for name, value in values.items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest) if rest and first else name
