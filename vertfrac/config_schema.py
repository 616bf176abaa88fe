"""JSON schemas of the files that users write, for editors: of a run's configuration and of a file in config/systems.

They follow from the models in ``config``, with what ``config.resolve`` does before these see it: systems may be named,
and one with a ``base`` states only what differs from it.
"""

from __future__ import annotations

from typing import Any

from vertfrac.config import NAME, Config

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = "#/$defs/"
_CHANGED = "Changed"
"""What the names of sections begin with in which no key is required."""


def run_schema() -> dict[str, Any]:
    """The schema of a run's configuration."""
    schema = Config.model_json_schema()
    schema["$defs"] |= {_CHANGED + name: _lenient(part) for name, part in schema["$defs"].items()}
    systems = {"type": "object", "propertyNames": {"pattern": NAME}, "additionalProperties": _system()}
    listed = {"type": "array", "items": {"anyOf": [{"type": "string", "pattern": NAME}, systems]}}
    properties = schema["properties"]
    del properties["ancestors"]
    properties["systems"] = {
        "description": "the systems to compare: names of files in config/systems, or spelled out as NAME: {...}",
        "minItems": 1,
        "minProperties": 1,
        "anyOf": [listed, systems],
    }
    return {"$schema": _DIALECT, **schema}


def system_schema() -> dict[str, Any]:
    """The schema of a file in config/systems."""
    return {"$schema": _DIALECT, "title": "System", **_system(), "$defs": run_schema()["$defs"]}


def _system() -> dict[str, Any]:
    """A system: complete, or what it has different from its base."""
    complete, changed = ({"$ref": f"{_REFERENCE}{prefix}System"} for prefix in ("", _CHANGED))
    based = {"properties": {"base": {"type": "string"}}, "required": ["base"]}
    return {"if": based, "then": changed, "else": complete}


def _lenient(part: Any) -> Any:
    """A part of a schema in which no key is required, and which refers to such parts."""
    if isinstance(part, list):
        return [_lenient(item) for item in part]
    if not isinstance(part, dict):
        return part
    kept = {key: _lenient(value) for key, value in part.items() if key not in ("required", "discriminator")}
    if "$ref" in kept:
        kept["$ref"] = kept["$ref"].replace(_REFERENCE, _REFERENCE + _CHANGED)
    if "oneOf" in kept:  # without its kind, a section may fit several
        kept["anyOf"] = kept.pop("oneOf")
    return kept
