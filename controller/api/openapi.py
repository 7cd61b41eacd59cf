"""The API's description, generated from the models that the API itself uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from pydantic import BaseModel

from ...policies.tokens import Role

_REFERENCE = "#/components/schemas/{name}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `query`: name -> type, all optional.

    `role`: what a token must allow, where there are tokens; None: nobody is asked for one.
    """

    method: str
    path: str
    summary: str
    answer: Any
    body: type[BaseModel] | None = None
    query: tuple[tuple[str, str], ...] = ()
    success: int = 200
    role: Role | None = "viewer"


def document(operations: tuple[Operation, ...], failure: Any, version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document. `failure`: the struct of every error's body."""
    answers = [operation.answer for operation in operations]
    shapes, schemas = msgspec.json.schema_components([*answers, failure], ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for operation, shape in zip(operations, shapes, strict=False):
        described: dict[str, Any] = {
            "summary": operation.summary,
            "operationId": f"{operation.method} {operation.path}",
            "parameters": _parameters(operation),
            "responses": {
                str(operation.success): _content("done", shape),
                "default": _content("refused or failed; see error.message", shapes[-1]),
            },
        }
        if operation.role is not None:
            described["security"] = [{"token": []}, {}]  # {}: a controller without tokens asks for none
        if operation.body is not None:
            body = operation.body.model_json_schema(ref_template=_REFERENCE.replace("{name}", "{model}"))
            schemas |= body.pop("$defs", {})
            schemas[operation.body.__name__] = body
            reference = {"$ref": _REFERENCE.format(name=operation.body.__name__)}
            described["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": reference}},
            }
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "Accede", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    named = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    in_path = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in named]
    in_query = [
        {"name": name, "in": "query", "required": False, "schema": {"type": kind}}
        for name, kind in operation.query
    ]
    return in_path + in_query


def _content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
