"""``flowtrace schema``: the JSON Schema of the config, which editors complete and check YAML by.

Made from the structs themselves, those of the installed sinks included (JSON Schema, draft 2020-12). msgspec's own
generator is no help here: it cannot write a default that is a Size or a Duration.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import inspect

from flowtrace.config import Config, Quantity
from flowtrace.plugins import Registry, discover, load

EPILOG = """\
To use it in an editor with a YAML language server, write it to a file and name that in the first line of the config:
  flowtrace schema > flowtrace.schema.json
  # yaml-language-server: $schema=flowtrace.schema.json
"""


def main(argv: Sequence[str]) -> int:
    """Print the schema; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="flowtrace schema",
        description="Prints the JSON Schema of the config, with the options of all installed sinks.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    registry = load(discover())
    if registry.problems:
        raise registry.problems[0]
    print(json.dumps(config_schema(registry), indent=2, ensure_ascii=False))
    return 0


def config_schema(registry: Registry) -> dict[str, Any]:
    """The schema of the config with the sinks of ``registry``, as plain data."""
    schema = _struct(inspect.type_info(Config))
    sinks = [_sink(name, sink.options) for name, sink in sorted(registry.sinks.items())]
    del schema["properties"]["service"]["default"]  # it is the name of the working directory
    schema["properties"]["sinks"]["items"] = {"oneOf": sinks}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "flowtrace config", **schema}


def _sink(name: str, options: type[msgspec.Struct]) -> dict[str, Any]:
    schema = _struct(inspect.type_info(options))
    schema["properties"] = {"type": {"const": name}, **schema["properties"]}
    schema["required"] = ["type", *schema["required"]]
    return schema


def _schema(kind: inspect.Type) -> dict[str, Any]:
    """The schema of one type; a type that configs have no use for allows anything."""
    match kind:
        case inspect.Metadata():
            return {**_schema(kind.type), **(kind.extra_json_schema or {})}
        case inspect.StructType():
            return _struct(kind)
        case inspect.UnionType():
            return {"anyOf": [_schema(inner) for inner in kind.types]}
        case inspect.CollectionType():
            return _typed("array", items=_schema(kind.item_type), minItems=kind.min_length, maxItems=kind.max_length)
        case inspect.DictType():
            return _typed("object", additionalProperties=_schema(kind.value_type))
        case inspect.LiteralType():
            return {"enum": list(kind.values)}
        case inspect.StrType():
            return _typed("string", minLength=kind.min_length, maxLength=kind.max_length, pattern=kind.pattern)
        case inspect.IntType() | inspect.FloatType():
            name = "integer" if isinstance(kind, inspect.IntType) else "number"
            return _typed(name, minimum=kind.ge, maximum=kind.le, exclusiveMinimum=kind.gt, exclusiveMaximum=kind.lt)
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.NoneType():
            return {"type": "null"}
        case inspect.CustomType() if issubclass(kind.cls, Quantity):
            return _quantity(kind.cls)
    return {}


def _struct(kind: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": _summary(kind.cls),
        "properties": {field.encode_name: _field(field) for field in kind.fields},
        "required": [field.encode_name for field in kind.fields if field.required],
        "additionalProperties": not kind.forbid_unknown_fields,
    }


def _field(field: inspect.Field) -> dict[str, Any]:
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    elif field.default is not msgspec.NODEFAULT:
        default = field.default
    else:
        return _schema(field.type)
    return {**_schema(field.type), "default": json.loads(msgspec.json.encode(default, enc_hook=str))}


def _quantity(kind: type[Quantity]) -> dict[str, Any]:
    number = rf"[0-9]+(\.[0-9]+)? *({'|'.join(kind.units)})"
    reference = r"\$\{.*\}"  # what the environment holds is known at run time only
    return {"anyOf": [{"type": "string", "pattern": f"^({number}|.*{reference}.*)$"}, {"const": 0}]}


def _summary(kind: type) -> str:
    return (kind.__doc__ or "").strip().partition("\n\n")[0]


def _typed(name: str, **constraints: object) -> dict[str, Any]:
    return {"type": name, **{key: value for key, value in constraints.items() if value is not None}}
