"""Read: a file's text into a document, or errors that name file, line and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from shared.store.document.document import Document
from shared.store.document.fields import DocumentError


def parse(path: Path, text: str) -> Document:
    """Raises DocumentError."""
    lines: Mapping[tuple[str | int, ...], int] = {}
    try:
        if path.suffix == ".toml":
            data = tomllib.loads(text)
        else:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            lines = _lines(node, ()) if node is not None else {}
            data = yaml.safe_load(text) or {}
    except tomllib.TOMLDecodeError as error:
        raise DocumentError(f"{path.name}: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DocumentError(f"{path.name}:{line} {error.problem or 'is not YAML'}") from None
    try:
        return Document.model_validate(data)
    except ValidationError as error:
        faults = [_fault(path, text, lines, dict(fault)) for fault in error.errors(include_input=False, include_url=False)]
        raise DocumentError("\n".join(faults)) from None


def _fault(path: Path, text: str, lines: Mapping[tuple[str | int, ...], int], fault: dict[str, Any]) -> str:
    location = tuple(part for part in fault["loc"] if not str(part).startswith("function-"))
    at = location
    while at and at not in lines:
        at = at[:-1]
    line = lines.get(at) or _toml_line(text, location)
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    message = fault["msg"].removeprefix("Value error, ")
    return f"{path.name}:{line} {name or 'document'}: {message}"


def _toml_line(text: str, location: tuple[str | int, ...]) -> int:
    """The first line that sets the key; TOML's reader keeps no positions."""
    names = [part for part in location if isinstance(part, str)]
    for number, line in enumerate(text.splitlines(), 1):
        if names and re.match(rf"\s*{re.escape(names[-1])}\s*=", line):
            return number
    return 1


def _lines(node: yaml.Node, path: tuple[str | int, ...]) -> dict[tuple[str | int, ...], int]:
    """Where each key of a YAML document stands, counted from 1."""
    found = {path: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(key.value)
            found |= _lines(value, (*path, key.value))
            found[*path, key.value] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            found |= _lines(item, (*path, index))
    return found
