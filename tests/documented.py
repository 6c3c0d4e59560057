"""An answer held against the OpenAPI document.

Rule: as far as this document's schemas go, and no further.
"""

from __future__ import annotations

from typing import Any

import httpx

_PLAIN = {"boolean": bool, "string": str, "integer": int}


def matches(document: dict[str, Any], schema: dict[str, Any], value: object) -> bool:
    """Whether ``value`` is as ``schema`` says."""
    if "$ref" in schema:
        return matches(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], value)
    if value is None:
        return bool(schema.get("nullable"))
    match schema["type"]:
        case "array":
            return isinstance(value, list) and all(matches(document, schema["items"], item) for item in value)
        case "object":
            known = schema.get("properties", {})
            return (
                isinstance(value, dict)
                and set(schema.get("required", [])) <= set(value)
                and all(matches(document, known[name], part) for name, part in value.items() if name in known)
            )
        case kind:
            return type(value) is _PLAIN[kind]


def assert_documented(document: dict[str, Any], where: tuple[str, str, str], answer: httpx.Response) -> None:
    """It has the status, the type, the body and the headers that stand under this path, method and status."""
    path, method, status = where
    assert str(answer.status_code) == status, (where, answer.text)
    response = document["paths"][path][method]["responses"][status]
    kind = answer.headers.get("content-type", "")
    if answer.content:
        media = response["content"][kind]
        if kind.endswith("json"):
            assert matches(document, media["schema"], answer.json()), (where, answer.text)
    else:
        assert "content" not in response, where
    for name in response.get("headers", {}):
        assert name in answer.headers, where
