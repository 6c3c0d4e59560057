"""What the OpenAPI document is built of.

Rule: a schema is named once, and every refusal is a problem document.
"""

from __future__ import annotations

from typing import Any

from authix_issuer.origins import SAFE

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
BOOLEAN = {"type": "boolean"}
MOMENT = {"type": "string", "format": "date-time"}
REFUSED_BODY = {
    "400": problem("The body is not a JSON object (`body_malformed`)."),
    "413": problem("The body is over 16 KiB (`body_too_large`)."),
    "415": problem("The body is not declared as JSON (`content_type_wrong`)."),
    "422": problem("The input is not acceptable; `reasons` says why (`input_invalid`)."),
    "503": problem("Too many passwords are waiting (`overloaded`), or a store is away; see `Retry-After`."),
}
UNAVAILABLE = {"503": problem("A store is away (`store_unavailable`); see `Retry-After`.")}
TOO_MANY = {
    "429": {
        **problem(
            "Too many requests from this address (`too_many_requests`), or too many wrong passwords for this account "
            "(`too_many_attempts`)."
        ),
        "headers": {"Retry-After": {"schema": NUMBER, "description": "the seconds to wait"}},
    }
}
NOT_MODIFIED = {"304": {"description": "Unchanged, by `If-None-Match`."}}
REFRESH_COOKIE: list[dict[str, list[str]]] = [{"refreshCookie": []}]
ACCESS_TOKEN: list[dict[str, list[str]]] = [{"accessToken": []}]
REFUSED_TOKEN = {"401": problem("No access token was sent, or it is refused; `code` says why (RFC 6750).")}


def with_origin_check(paths: dict[str, Any]) -> dict[str, Any]:
    """``paths``, where each call that may change something is refused to pages of other origins."""
    return {
        path: {
            method: call if method.upper() in SAFE else call | {"responses": _with_origin_forbidden(call["responses"])}
            for method, call in item.items()
        }
        for path, item in paths.items()
    }


def _with_origin_forbidden(responses: dict[str, Any]) -> dict[str, Any]:
    besides = f"{responses['403']['description']} " if "403" in responses else ""
    refusal = problem(f"{besides}A page of an origin that is not listed sent this (`origin_forbidden`).")
    return {**responses, "403": refusal}


def call(name: str, summary: str, *answers: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An operation that needs an access token: what it answers besides what all such do."""
    responses: dict[str, Any] = {}
    for answer in (*answers, REFUSED_TOKEN, UNAVAILABLE):
        responses = answer | responses
    return {"operationId": name, "summary": summary, "security": ACCESS_TOKEN, "responses": responses, **more}


def body(schema: dict[str, Any]) -> dict[str, Any]:
    """An operation's part that says what must be sent."""
    return {"requestBody": {"required": True, "content": content(JSON_TYPE, schema)}}
