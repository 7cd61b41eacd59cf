"""JSON Schemas of the two kinds of files, for editors: generated from the models, in the written forms.

What is known but not supported yet stays in the schema as a key that no value fits, so an editor says
why. The schema is the outline; `load` checks more (what must fit together).
"""

from __future__ import annotations

from typing import Any, Final, cast

from .later import HARMLESS, LATER_KEYS, LATER_VALUES, NULLABLE
from .metrics import NAMES
from .network_rules import MAX_URLS
from .policy import Gate, RolloutPolicy, Step
from .quantities import Value
from .service import ModelService, Slice, Version

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


def service_schema() -> Schema:
    """The schema of a ModelService file, JSON Schema draft 2020-12."""
    schema = _schema(ModelService)
    schema["properties"]["unit"] = {
        "description": schema["properties"]["unit"].get("description", ""),
        "anyOf": [
            {"const": "request"},
            *({"$ref": "#/$defs/Unit", "required": [key]} for key in ("header", "cookie", "path")),
        ],
    }
    schema["$defs"]["Match"]["minProperties"] = 1
    schema["properties"]["versions"]["minProperties"] = 1
    _exactly_one(schema["$defs"][Version.__name__], "url", "urls")
    schema["$defs"][Version.__name__]["properties"]["urls"] |= {"minItems": 1, "maxItems": MAX_URLS}
    _exactly_one(schema["$defs"][Slice.__name__], "values", "bins")
    schema["$defs"][Slice.__name__]["required"] = ["path"]
    for key in ("values", "bins"):
        schema["$defs"][Slice.__name__]["properties"][key]["minItems"] = 2
    return schema


def policy_schema() -> Schema:
    """The schema of a RolloutPolicy file, JSON Schema draft 2020-12."""
    schema = _schema(RolloutPolicy)
    _exactly_one(schema["$defs"][Step.__name__], "shadow", "canary", "approve")
    schema["$defs"][Gate.__name__]["properties"]["metric"]["enum"] = list(NAMES)
    return schema


def _schema(model: type[Value]) -> Schema:
    schema = model.model_json_schema(by_alias=True, mode="validation")
    models: dict[str, type[Value]] = {
        known.__name__: known for known in (*LATER_KEYS, *LATER_VALUES, *NULLABLE)
    }
    _as_written(schema)
    for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
        if name in models:
            _refuse_later(models[name], part)
    return {"$schema": DIALECT, **schema}


def _as_written(node: object) -> None:
    """Drop what a file does not show: titles made of names, defaults in stored units, nulls that mean absent.

    Of a class's docstring the first paragraph is for users, the rest for readers of the code.
    """
    if isinstance(node, list):
        for item in cast("list[object]", node):
            _as_written(item)
    if not isinstance(node, dict):
        return
    schema = cast("Schema", node)
    properties: dict[str, Schema] = schema.get("properties", {})
    if properties:
        schema["description"] = schema.get("description", "").partition("\n\n")[0]
    for part in properties.values():
        part.pop("title", None)
        part.pop("default", None)
        branches = [branch for branch in part.pop("anyOf", []) if branch != {"type": "null"}]
        if len(branches) == 1:
            # The key's own description says more than the quantity's.
            part |= {name: value for name, value in branches[0].items() if name not in part}
        elif branches:
            part["anyOf"] = branches
    for part in schema.values():
        _as_written(part)


def _refuse_later(model: type[Value], schema: Schema) -> None:
    properties = schema["properties"]
    for key, instead in LATER_KEYS.get(model, {}).items():
        harmless = HARMLESS.get(model, {})
        rule: Schema = {"const": harmless[key]} if key in harmless else {"not": {}}
        properties[key] = {"description": f"Not supported yet; {instead}.", **rule}
    for key, values in LATER_VALUES.get(model, {}).items():
        properties[key]["enum"] = [word for word in properties[key]["enum"] if word not in values]
    for key in NULLABLE.get(model, frozenset()) - set(LATER_KEYS.get(model, {})):
        properties[key] = {"anyOf": [properties[key], {"type": "null"}]}


def _exactly_one(schema: Schema, *keys: str) -> None:
    schema["oneOf"] = [{"required": [key]} for key in keys]
