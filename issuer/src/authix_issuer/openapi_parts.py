"""What the OpenAPI document is built of.

Rule: a schema is named once, and every refusal is a problem document.
"""

from __future__ import annotations

from typing import Any

JSON_TYPE, PROBLEM_TYPE = "application/json", "application/problem+json"


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def content(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {kind: {"schema": schema}}


def problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": content(PROBLEM_TYPE, ref("Problem"))}


def object_of(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
REFUSED_BODY = {
    "400": problem("The body is not a JSON object (`body_malformed`)."),
    "413": problem("The body is over 16 KiB (`body_too_large`)."),
    "415": problem("The body is not declared as JSON (`content_type_wrong`)."),
    "422": problem("The input is not acceptable; `reasons` says why (`input_invalid`)."),
    "503": problem("Too many passwords are waiting (`overloaded`), or a store is away; see `Retry-After`."),
}
UNAVAILABLE = {"503": problem("A store is away (`store_unavailable`); see `Retry-After`.")}
REFRESH_COOKIE: list[dict[str, list[str]]] = [{"refreshCookie": []}]
