"""The data schema: JSON Schema of a manifest row, read off the Arrow schema."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from medsynth_core.manifest import MAY_BE_NULL, SCHEMA, SCHEMA_VERSION


def manifest_schema() -> dict[str, Any]:
    """Returns the JSON Schema (draft 2020-12) of a row as ``Table.to_pylist()`` gives it.

    A binary column gives bytes, for which JSON has no type, so any value passes there. So do further columns.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "medsynth manifest, a row an image",
        "version": SCHEMA_VERSION,
        **_object(
            {field.name: {"description": description(field), **_value(field.type, field.name)} for field in SCHEMA}
        ),
    }


def description(field: pa.Field) -> str:
    """Returns what a manifest column holds."""
    text: str = field.metadata[b"description"].decode()
    return text


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _value(kind: pa.DataType, path: str) -> dict[str, Any]:
    if pa.types.is_binary(kind):
        return {}
    schema = _typed(kind, path)
    return schema | {"type": [schema["type"], "null"]} if path in MAY_BE_NULL else schema


def _typed(kind: pa.DataType, path: str) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"type": "array", "items": _value(kind.value_type, path)}
    if pa.types.is_struct(kind):
        return _object({member.name: _value(member.type, f"{path}.{member.name}") for member in kind})
    if pa.types.is_integer(kind):
        top = 2 ** (kind.bit_width - 1)
        return {"type": "integer", "minimum": -top, "maximum": top - 1}
    return {"type": {pa.string(): "string", pa.bool_(): "boolean", pa.float32(): "number"}[kind]}
