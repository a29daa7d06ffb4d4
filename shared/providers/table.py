"""Table: a TOML table that is read key by key, so that whatever is wrong or unknown in it is told by file, line and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from shared.domain.money import usd_to_nano

SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
URL = re.compile(r"https?://[A-Za-z0-9.\-_\[\]:]+(/[\x21\x22\x24-\x3e\x40-\x7e]*)?")

_Choice = TypeVar("_Choice", bound=StrEnum)


class CatalogueError(Exception):
    """`groq.toml:12: models."x".price.input: …`: the file, the line, the key, what is wrong."""


class Table:
    """One TOML table that is read key by key; `done` refuses the keys that nobody read."""

    def __init__(self, values: Mapping[str, Any], path: tuple[str, ...], file: str, lines: dict[tuple[str, ...], int]):
        self.values = values
        self._path = path
        self._file = file
        self._lines = lines
        self._read: set[str] = set()

    @staticmethod
    def of(text: str, file: str) -> Table:
        try:
            return Table(tomllib.loads(text), (), file, _line_numbers(text))
        except tomllib.TOMLDecodeError as error:
            raise CatalogueError(f"{file}: not TOML: {error}") from None

    def fail(self, key: tuple[str, ...], problem: str) -> NoReturn:
        path = (*self._path, *key)
        line = next((self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines), 1)
        name = ".".join(part if re.fullmatch(r"[\w-]+", part) else f'"{part}"' for part in path)
        raise CatalogueError(f"{self._file}:{line}: {name}: {problem}")

    def done(self) -> None:
        for key in self.values:
            if key not in self._read:
                known = ", ".join(sorted(self._read)) or "no keys"
                self.fail((key,), f"unknown key (known here: {known})")

    def _take(self, key: str, kind: type, called: str) -> Any:
        self._read.add(key)
        value = self.values.get(key)
        if value is not None and type(value) is not kind:
            self.fail((key,), f"must be {called}")
        return value

    def table(self, key: str) -> Table:
        values = self._take(key, dict, "a table")
        return Table(values or {}, (*self._path, key), self._file, self._lines)

    def tables(self, key: str) -> list[Table]:
        values = self._take(key, list, "an array of tables") or []
        if any(type(value) is not dict for value in values):
            self.fail((key,), "must be an array of tables")
        return [Table(value, (*self._path, key), self._file, self._lines) for value in values]

    def text(self, key: str) -> str:
        value = self.optional_text(key)
        if value is None:
            self.fail((key,), "missing")
        return value

    def optional_text(self, key: str) -> str | None:
        value: str | None = self._take(key, str, "a string")
        if value is not None and not value.strip():
            self.fail((key,), "must not be empty")
        return value

    def texts(self, key: str, *, default: list[str] | None = None) -> list[str]:
        values = self._take(key, list, "an array of strings")
        if values is None:
            return default or []
        if any(type(value) is not str or not value for value in values):
            self.fail((key,), "must be an array of strings")
        if len(set(values)) != len(values):
            self.fail((key,), "names something twice")
        return list(values)

    def slug(self, key: str) -> str:
        value = self.text(key)
        if SLUG.fullmatch(value) is None:
            self.fail((key,), f"{value!r} must be lower-case letters, digits and single dashes")
        return value

    def slugs(self, key: str) -> list[str]:
        values = self.texts(key)
        for value in values:
            if SLUG.fullmatch(value) is None:
                self.fail((key,), f"{value!r} must be lower-case letters, digits and single dashes")
        return values

    def flag(self, key: str) -> bool | None:
        value: bool | None = self._take(key, bool, "true or false")
        return value

    def count(self, key: str, *, most: int, least: int = 1) -> int | None:
        value: int | None = self._take(key, int, "a whole number")
        if value is not None and not least <= value <= most:
            self.fail((key,), f"{value} is not between {least} and {most}")
        return value

    def usd(self, key: str) -> int:
        value = self._take(key, str, 'a string of USD, like "0.15"')
        try:
            return usd_to_nano(value)
        except ValueError as error:
            self.fail((key,), str(error))

    def day(self, key: str) -> str:
        value = self.optional_day(key)
        return "" if value is None else value.isoformat()

    def optional_day(self, key: str) -> date | None:
        value: date | None = self._take(key, date, "a date, like 2026-11-20")
        return value

    def days(self, key: str) -> list[date]:
        values: list[date] = self._take(key, list, "an array of dates") or []
        if any(type(value) is not date for value in values):
            self.fail((key,), "must be an array of dates")
        return values

    def url(self, key: str) -> str | None:
        value = self.optional_text(key)
        if value is not None:
            try:
                parts = urlsplit(value)
                usable = bool(parts.hostname) and parts.port != 0
            except ValueError:
                usable = False
            if not usable or not URL.fullmatch(value) or value.endswith("/"):
                self.fail((key,), f"{value!r} must be an http(s) URL without credentials, query or final slash")
        return value

    def path(self, key: str) -> str:
        value = self.text(key)
        if not value.startswith("/") or any(sign in value for sign in "# "):
            self.fail((key,), f"{value!r} must be a path that begins with a slash")
        return value

    def one_of(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        value = self.optional_text(key)
        if value is not None and value not in allowed:
            self.fail((key,), f"{value!r} is none of {', '.join(filter(None, allowed))}")
        return default if value is None else value

    def choice(self, key: str, kind: type[_Choice], default: _Choice) -> _Choice:
        value = self.optional_text(key)
        if value is None:
            return default
        if value not in {member.value for member in kind}:
            self.fail((key,), f"{value!r} is none of {', '.join(member.value for member in kind)}")
        return kind(value)


_HEADER = re.compile(r"\s*\[([^\[\]].*?)\]\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_KEY = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def _line_numbers(text: str) -> dict[tuple[str, ...], int]:
    """Where each key stands: tomllib does not say. Keys of inline tables are found on their table's line."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _keys(header[1])
            lines.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            path = (*table, *_keys(assignment[1]))
            lines.setdefault(path, number)
    return lines


def _keys(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _KEY.findall(dotted))
