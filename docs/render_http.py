"""Renders docs/http.md from the issuer's OpenAPI document: ``make docs``. A test holds the page against it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from authix_issuer.openapi import document

PAGE = Path(__file__).parent / "http.md"

HEAD = """# The issuer's HTTP interface

<!-- Written by docs/render_http.py (`make docs`). -->

The same as `/openapi.json` of a running issuer, whose `/docs` is a page to try it on. Bodies are JSON in UTF-8 unless the
call says otherwise. A refusal is a [problem document](#problem) (`application/problem+json`, RFC 9457) whose `code` stays
the same from release to release; [errors](errors.md) says of each code what to do. The sidecar's own paths are in
[the sidecar](sidecar.md).

Who asks is said by one of these:

| in the tables below | what a client sends |
|---|---|
"""
SECURITY = {
    "refreshCookie": ("refresh cookie", "the cookie `{cookie}` that `/login` set"),
    "accessToken": ("access token", "`Authorization: Bearer` and an access token"),
    "feedToken": ("feed token", "`Authorization: Bearer` and `AUTHIX_FEED_TOKEN`"),
    "introspectionToken": ("introspection token", "`Authorization: Bearer` and `AUTHIX_INTROSPECTION_TOKEN`"),
    "introspectionSecret": ("client secret", "`Authorization: Basic`, any name, and `AUTHIX_INTROSPECTION_TOKEN`"),
}
GROUPS = (
    ("Accounts and sessions", ("/register", "/login", "/access_token", "/logout", "/sessions", "/account")),
    ("For verifiers", ("/public_key", "/.well-known/jwks.json", "/revocations")),
    ("Administration", ("/admin",)),
    ("OAuth and OpenID", ("/introspect", "/revoke", "/.well-known/o")),
    ("Probes", ("/livez", "/readyz", "/metrics")),
)
SCHEMA_LINK = "[`{0}`](#{1})"


def render() -> str:
    cookie = "__Host-authix_refresh"
    api = document(version=version("authix-issuer"), issuer="https://auth.example.com", cookie=cookie)
    return "\n".join(_lines(api, cookie)) + "\n"


def _lines(api: dict[str, Any], cookie: str) -> Iterator[str]:
    named = api["components"]["securitySchemes"]
    yield HEAD + "\n".join(f"| {SECURITY[name][0]} | {SECURITY[name][1].format(cookie=cookie)} |" for name in named)
    groups: dict[str, list[str]] = {title: [] for title, _ in GROUPS}
    for path in api["paths"]:
        groups[_group(path)].append(path)
    for title, paths in groups.items():
        yield f"\n## {title}"
        for path in paths:
            for method, call in api["paths"][path].items():
                yield from _call(method.upper(), path, call)
    yield "\n## Schemas"
    for name, schema in api["components"]["schemas"].items():
        yield f"\n### {name}\n\n| field | type | |\n|---|---|---|"
        yield from _fields(schema)


def _group(path: str) -> str:
    for title, begins in GROUPS:
        if path.startswith(begins):
            return title
    raise LookupError(f"{path} is in no group of {__file__}")


def _call(method: str, path: str, call: dict[str, Any]) -> Iterator[str]:
    yield f"\n### `{method} {path}`\n\n{call['summary']}." + (
        f" {call['description']}" if "description" in call else ""
    )
    ways = [" and ".join(SECURITY[name][0] for name in way) or "nothing" for way in call.get("security", [])]
    if ways:
        yield f"\nNeeds: {' or '.join(ways)}."
    if parameters := call.get("parameters"):
        yield "\n| parameter | in | type | |\n|---|---|---|---|"
        for one in parameters:
            needed = "required; " if one.get("required") else ""
            about = f"{needed}{one.get('description', '')}".removesuffix("; ")
            yield f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} | {about} |"
    for kind, media in call.get("requestBody", {}).get("content", {}).items():
        yield f"\nBody, `{kind}`: {_type(media['schema'])}"
    yield "\n| status | what it means | answer |\n|---|---|---|"
    for status, response in sorted(call["responses"].items()):
        shown = ", ".join(
            f"{_type(media['schema'])}" + ("" if kind.endswith("json") else f" `{kind}`")
            for kind, media in response.get("content", {}).items()
        )
        sent = ", ".join(f"`{name}`" for name in response.get("headers", {}))
        yield f"| {status} | {response['description']} | {'; '.join(filter(None, (shown, sent)))} |"


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    required = schema.get("required", [])
    for name, part in schema["properties"].items():
        about = [*([] if name in required else ["optional"]), *filter(None, [part.get("description")])]
        yield f"| `{name}` | {_type(part)} | {'; '.join(about)} |"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return SCHEMA_LINK.format(name, name.lower())
    if "enum" in schema:
        shown = " or ".join(f"`{value}`" for value in schema["enum"])
    elif schema["type"] == "array":
        shown = f"list of {_type(schema['items'])}"
    elif schema.get("properties"):
        required = schema.get("required", [])
        parts = (
            f"`{name}`{'' if name in required else ' (optional)'} {_type(part)}"
            for name, part in schema["properties"].items()
        )
        shown = f"object of {', '.join(parts)}"
    else:
        shown = " ".join(filter(None, (schema["type"], schema.get("format"))))
    return shown + (" or null" if schema.get("nullable") else "")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} written\n")
