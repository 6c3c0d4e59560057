"""The OpenAPI description of ``oauth_routes``."""

from __future__ import annotations

from typing import Any

from authix_issuer import discovery
from authix_issuer.openapi_parts import (
    BOOLEAN,
    JSON_TYPE,
    NOT_MODIFIED,
    NUMBER,
    TEXT,
    UNAVAILABLE,
    content,
    object_of,
    problem,
    ref,
)

_TOKEN = {
    "required": True,
    "content": content(
        "application/x-www-form-urlencoded",
        object_of(
            {"token": TEXT | {"minLength": 1}},
            token_type_hint=TEXT | {"description": "Ignored: a token's kind is seen from itself."},
        ),
    ),
}
_REFUSED_FORM = {
    "400": problem("The body is not a form that gives `token` once (`form_malformed`, `invalid_request`)."),
    "413": problem("The body is over 16 KiB (`body_too_large`)."),
}
_TEXTS = {"type": "array", "items": TEXT}

PATHS: dict[str, Any] = {
    "/introspect": {
        "post": {
            "operationId": "introspect",
            "summary": "Whether an access token is good now, and what it says (RFC 7662)",
            "description": "For services. Whatever is not a good access token of this issuer is not active.",
            "security": [{"introspectionSecret": []}, {"introspectionToken": []}],
            "requestBody": _TOKEN,
            "responses": {
                "200": {
                    "description": "Its claims, or that it is not active.",
                    "content": content(JSON_TYPE, ref("Introspection")),
                },
                "401": problem(
                    "The introspection token is missing or wrong (`introspection_token_wrong`, `invalid_client`)."
                ),
                "404": problem("This issuer has no introspection (`introspection_off`)."),
                **_REFUSED_FORM,
                **UNAVAILABLE,
            },
        }
    },
    "/revoke": {
        "post": {
            "operationId": "revoke",
            "summary": "End the session that a token belongs to (RFC 7009)",
            "description": "Answers once that is durable. Repeatable; a token that is not good is as good as revoked.",
            "requestBody": _TOKEN,
            "responses": {
                "200": {"description": "The token is of no use any more."},
                **_REFUSED_FORM,
                **UNAVAILABLE,
            },
        }
    },
}

SCHEMAS: dict[str, Any] = {
    "Introspection": object_of(
        {"active": BOOLEAN},
        token_type=TEXT,
        iss=TEXT,
        sub=TEXT,
        aud=TEXT,
        iat=NUMBER,
        iat_us=NUMBER,
        exp=NUMBER,
        jti=TEXT,
        sid=TEXT,
        roles=_TEXTS,
    ),
    "Metadata": object_of(
        {
            "issuer": TEXT,
            "jwks_uri": TEXT,
            "revocation_endpoint": TEXT,
            "revocation_endpoint_auth_methods_supported": _TEXTS,
            "response_types_supported": _TEXTS,
            "grant_types_supported": _TEXTS,
            "subject_types_supported": _TEXTS,
            "id_token_signing_alg_values_supported": _TEXTS,
            "service_documentation": TEXT,
            "authix_feed_endpoint": TEXT,
        },
        introspection_endpoint=TEXT,
        introspection_endpoint_auth_methods_supported=_TEXTS,
    ),
}

SECURITY: dict[str, Any] = {
    "introspectionSecret": {"type": "http", "scheme": "basic"},
    "introspectionToken": {"type": "http", "scheme": "bearer"},
}


def metadata_paths(issuer: str) -> dict[str, Any]:
    """Each place of the metadata of the issuer at this URL."""
    found = {"description": "The metadata.", "content": content(JSON_TYPE, ref("Metadata"))}
    return {
        path: {
            "get": {
                "operationId": path.removeprefix("/.well-known/").replace("-", "_").replace("/", "_"),
                "summary": "The issuer's metadata (RFC 8414, OpenID Connect Discovery 1.0)",
                "responses": {"200": found, **NOT_MODIFIED},
            }
        }
        for path in discovery.paths(issuer)
    }
