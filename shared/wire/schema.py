"""Schema (pure): JSON Schema bent to what Gemini's function declarations and response schemas take, and back.

Gemini's subset is OpenAPI 3.0's: no `$ref`, no `const`, no type arrays, enums of strings only, `nullable` in place of null.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
KEPT = frozenset(
    {
        "type", "format", "title", "description", "nullable", "enum", "items", "minItems", "maxItems", "properties",
        "propertyOrdering", "required", "minProperties", "maxProperties", "minimum", "maximum", "minLength", "maxLength",
        "pattern", "example", "anyOf", "default",
    }
)  # fmt: skip
MOST_DEPTH = 24
NAMED = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
"""Keywords whose keys are names, not keywords."""


def subset(schema: Schema) -> Schema:
    """The schema within Gemini's subset. What cannot be said is said less strictly, never wrongly."""
    definitions = {**_table(schema.get("definitions")), **_table(schema.get("$defs"))}
    return _subset(schema, definitions, (), 0)


def _subset(schema: Any, definitions: Schema, seen: tuple[str, ...], depth: int) -> Schema:
    if type(schema) is not dict or depth > MOST_DEPTH:
        return {}
    reference = schema.get("$ref")
    if type(reference) is str:
        name = reference.rpartition("/")[2]
        if name in seen or name not in definitions:
            return {"type": "object"}
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return _subset({**_table(definitions[name]), **rest}, definitions, (*seen, name), depth + 1)
    schema = _merged(schema)
    made: Schema = {}
    for key, value in schema.items():
        match key:
            case "properties":
                inner = {name: _subset(each, definitions, seen, depth + 1) for name, each in _table(value).items()}
                if inner:
                    made[key] = inner
            case "items":
                made[key] = _subset(value, definitions, seen, depth + 1) if type(value) is dict else {}
            case "anyOf" | "oneOf":
                given = value if type(value) is list else []
                _any_of(made, [_subset(each, definitions, seen, depth + 1) for each in given if _is_type(each)], given)
            case "const":
                made["enum"] = [str(value)]
            case "exclusiveMinimum" | "exclusiveMaximum":
                if type(value) in (int, float):
                    made[key[9:].lower()] = value
            case _ if key in KEPT:
                made[key] = value
    return _tidy(made)


def _any_of(made: Schema, options: list[Schema], given: Any) -> None:
    """Alternatives; a null among them is `nullable`, and a single one that is left is the schema itself."""
    if type(given) is list and len(options) < len(given):
        made["nullable"] = True
    if len(options) == 1:
        made.update({key: value for key, value in options[0].items() if key not in made})
    elif options:
        made["anyOf"] = options


def _is_type(each: Any) -> bool:
    return type(each) is dict and each.get("type") != "null"


def _merged(schema: Schema) -> Schema:
    """`allOf` folded into the schema that has it."""
    parts = schema.get("allOf")
    if type(parts) is not list:
        return schema
    made = {key: value for key, value in schema.items() if key != "allOf"}
    for part in parts:
        if type(part) is not dict:
            continue
        for key, value in part.items():
            if key == "properties":
                made[key] = {**_table(value), **_table(made.get(key))}
            elif key == "required":
                names = [name for each in (made.get(key), value) if type(each) is list for name in each if type(name) is str]
                made[key] = list(dict.fromkeys(names))
            else:
                made.setdefault(key, value)
    return made


def _tidy(made: Schema) -> Schema:
    kinds = made.get("type")
    if type(kinds) is list:
        plain = [kind for kind in kinds if kind != "null"]
        if len(plain) < len(kinds):
            made["nullable"] = True
        if len(plain) == 1:
            made["type"] = plain[0]
        else:
            del made["type"]
            made["anyOf"] = [{"type": kind} for kind in plain]
    if "anyOf" in made:  # it must stand alone
        return {key: value for key, value in made.items() if key in ("anyOf", "description", "nullable", "title")}
    if type(made.get("enum")) is list:
        made["enum"] = [str(value) for value in made["enum"] if value not in (None, "")]
        made["type"] = "string"
        if not made["enum"]:
            del made["enum"]
    if "type" not in made and "properties" in made:
        made["type"] = "object"
    if made.get("type") == "array" and not made.get("items"):
        made["items"] = {"type": "object"}
    if type(made.get("required")) is list:
        known = _table(made.get("properties"))
        made["required"] = [name for name in made["required"] if type(name) is str and name in known]
        if not made["required"]:
            del made["required"]
    return made


UNCHECKED = frozenset(
    {
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "maxItems",
        "uniqueItems", "minProperties", "maxProperties", "minContains", "maxContains",
    }
)  # fmt: skip
FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})


def closed(schema: Any) -> Any:
    """Claude's structured outputs: every object is closed, and bounds that its grammar cannot hold are said in words.

    Source: https://platform.claude.com/docs/en/build-with-claude/structured-outputs (JSON Schema limitations); Anthropic's own
    SDKs bend schemas in the same way.
    """
    if type(schema) is list:
        return [closed(entry) for entry in schema]
    if type(schema) is not dict:
        return schema
    made: Schema = {}
    bounds: list[str] = []
    for key, value in schema.items():
        if key in UNCHECKED or (key == "minItems" and value not in (0, 1)) or (key == "format" and str(value) not in FORMATS):
            bounds.append(f"{key}: {value}")
        elif key in NAMED and type(value) is dict:
            made[key] = {name: closed(each) for name, each in value.items()}
        else:
            made["anyOf" if key == "oneOf" else key] = value if key in LITERAL else closed(value)
    if made.get("type") == "object" or "properties" in made:
        made["additionalProperties"] = False
    if bounds:
        made["description"] = " ".join(filter(None, [made.get("description"), f"({', '.join(bounds)})"]))
    return made


LITERAL = ("enum", "default", "example", "examples", "const", "required")


def required(schema: Any) -> Any:
    """Cohere: every object needs a required property; where none is named, all are."""
    if type(schema) is list:
        return [required(entry) for entry in schema]
    if type(schema) is not dict:
        return schema
    made = {
        key: {name: required(each) for name, each in value.items()}
        if key in NAMED and type(value) is dict
        else value
        if key in LITERAL
        else required(value)
        for key, value in schema.items()
    }
    if type(made.get("properties")) is dict and made["properties"] and not made.get("required"):
        made["required"] = list(made["properties"])
    return made


def _table(value: Any) -> Schema:
    return value if type(value) is dict else {}


def lower_types(schema: Any) -> Any:
    """Google's clients write types in capitals, also in JSON Schema (`"OBJECT"`): others want them small."""
    if type(schema) is list:
        return [lower_types(item) for item in schema]
    if type(schema) is not dict:
        return schema
    made: Schema = {}
    for key, value in schema.items():
        if key == "type" and type(value) is str:
            made[key] = value.lower()
        elif key == "type" and type(value) is list:
            made[key] = [kind.lower() if type(kind) is str else kind for kind in value]
        elif key in NAMED and type(value) is dict:
            made[key] = {name: lower_types(each) for name, each in value.items()}
        elif key == "nullable":
            continue
        else:
            made[key] = value if key in ("enum", "default", "example", "const") else lower_types(value)
    if schema.get("nullable") is True and type(made.get("type")) is str:
        made["type"] = [made["type"], "null"]
    return made
