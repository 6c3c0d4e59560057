"""The HTTP interface as an OpenAPI 3.0 document.

Rule: this is the contract; a test holds it against the routes, both ways.
"""

from __future__ import annotations

from typing import Any

from authix_issuer import openapi_account, openapi_admin, openapi_oauth
from authix_issuer.openapi_links import with_links
from authix_issuer.openapi_parts import (
    JSON_TYPE,
    NOT_MODIFIED,
    NUMBER,
    REFRESH_COOKIE,
    REFUSED_BODY,
    TEXT,
    TOO_MANY,
    UNAVAILABLE,
    content,
    object_of,
    problem,
    ref,
    with_origin_check,
)

_CREDENTIALS = {"required": True, "content": content(JSON_TYPE, ref("Credentials"))}
_TOKENS = {
    "description": "Tokens. The refresh token is in an HttpOnly cookie.",
    "headers": {
        "Authorization": {"schema": TEXT, "description": "`Bearer` and the access token"},
        "Set-Cookie": {"schema": TEXT, "description": "the refresh token"},
    },
    "content": content(JSON_TYPE, ref("Tokens")),
}
_JWKS = content("application/jwk-set+json", {"type": "object"})
_SCOPE = {
    "name": "scope",
    "in": "query",
    "description": (
        "`user`: end this session and revoke every access token of the user, other sessions heal by one refresh; "
        "`session`: this session and its access tokens only; `all`: every session of the user."
    ),
    "schema": {"type": "string", "enum": ["user", "session", "all"], "default": "user"},
}


def _logout(method: str) -> dict[str, Any]:
    return {
        "operationId": f"{method}_logout",
        "summary": "Log out",
        "description": "Answers once the logout is durable. Repeatable.",
        "security": [*REFRESH_COOKIE, {"accessToken": []}],
        "parameters": [_SCOPE],
        "responses": {
            "204": {"description": "Logged out; the cookie is cleared."},
            "401": problem("No token was sent, or it is not one of ours."),
            "422": problem("The scope is unknown (`input_invalid`)."),
            **UNAVAILABLE,
        },
    }


def _probe(name: str, summary: str) -> dict[str, Any]:
    answer = {"description": "Yes.", "content": content(JSON_TYPE, object_of({"status": TEXT}))}
    return {"operationId": name, "summary": summary, "responses": {"200": answer}}


def document(*, version: str, issuer: str, cookie: str) -> dict[str, Any]:
    """The document for an issuer at the URL ``issuer`` whose refresh cookie is named ``cookie``."""
    readyz = _probe("readyz", "Whether the stores answer")
    readyz["responses"] |= UNAVAILABLE
    found: dict[str, Any] = {
        "openapi": "3.0.3",
        "info": {"title": "Authix issuer", "version": version, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": issuer}],
        "paths": {
            "/register": {
                "post": {
                    "operationId": "register",
                    "summary": "Register a user",
                    "requestBody": _CREDENTIALS,
                    "responses": {
                        "201": {"description": "Registered.", "content": content(JSON_TYPE, ref("Account"))},
                        "409": problem("There already is an account with this email (`email_taken`)."),
                        **TOO_MANY,
                        **REFUSED_BODY,
                    },
                }
            },
            "/login": {
                "post": {
                    "operationId": "login",
                    "summary": "Log in",
                    "requestBody": _CREDENTIALS,
                    "responses": {
                        "200": _TOKENS,
                        "401": problem("Email or password is wrong (`credentials_wrong`)."),
                        "403": problem("The password is right, but the account is disabled (`account_disabled`)."),
                        "409": problem("The account is being changed by others; try again (`account_busy`)."),
                        **TOO_MANY,
                        **REFUSED_BODY,
                    },
                }
            },
            "/access_token": {
                "post": {
                    "operationId": "access_token",
                    "summary": "Exchange the refresh token for new tokens",
                    "description": (
                        "Rotates the refresh token. The one before stays good for the grace (10 s) and gets the same "
                        "successor; an older one is taken as theft and ends the session."
                    ),
                    "security": REFRESH_COOKIE,
                    "responses": {
                        "200": _TOKENS,
                        "401": problem(
                            "`refresh_token_missing`, `refresh_token_invalid` or `refresh_token_reused`; log in again."
                        ),
                        **UNAVAILABLE,
                    },
                }
            },
            "/logout": {"post": _logout("post"), "delete": _logout("delete")},
            "/public_key": {
                "get": {
                    "operationId": "public_key",
                    "summary": "The published keys: PEM, or a JWK Set by `Accept`",
                    "responses": {
                        "200": {
                            "description": "The keys, the signing one first.",
                            "content": {**content("application/x-pem-file", TEXT), **_JWKS},
                        },
                        "400": problem("`Accept` can't be read (`request_malformed`)."),
                        **NOT_MODIFIED,
                    },
                }
            },
            "/.well-known/jwks.json": {
                "get": {
                    "operationId": "jwks",
                    "summary": "The published keys as a JWK Set (RFC 7517)",
                    "responses": {"200": {"description": "The keys.", "content": _JWKS}, **NOT_MODIFIED},
                }
            },
            "/revocations": {
                "get": {
                    "operationId": "revocations",
                    "summary": "The revocation feed",
                    "description": (
                        "JSON: all live revocations and a cursor. With `Accept: text/event-stream`: the live feed from "
                        "`Last-Event-ID` on, or all live revocations first; a heartbeat a second. Beyond this machine "
                        "it needs the feed's bearer token."
                    ),
                    "security": [{"feedToken": []}, {}],
                    "parameters": [{"name": "Last-Event-ID", "in": "header", "schema": TEXT}],
                    "responses": {
                        "200": {
                            "description": "The snapshot, or the live feed.",
                            "content": {
                                **content(JSON_TYPE, ref("Snapshot")),
                                **content("text/event-stream", TEXT),
                            },
                        },
                        "401": problem("The feed's token is missing or wrong (`feed_token_wrong`)."),
                        **UNAVAILABLE,
                    },
                }
            },
            "/livez": {"get": _probe("livez", "Whether the process runs")},
            "/readyz": {"get": readyz},
            **openapi_account.PATHS,
            **openapi_admin.PATHS,
            **openapi_oauth.PATHS,
            **openapi_oauth.metadata_paths(issuer),
        },
        "components": {
            "securitySchemes": {
                "refreshCookie": {"type": "apiKey", "in": "cookie", "name": cookie},
                "accessToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "feedToken": {"type": "http", "scheme": "bearer"},
                **openapi_oauth.SECURITY,
            },
            "schemas": {
                "Credentials": object_of(
                    {"email": TEXT | {"format": "email"}, "password": TEXT | {"format": "password"}}
                ),
                **openapi_account.SCHEMAS,
                **openapi_admin.SCHEMAS,
                **openapi_oauth.SCHEMAS,
                "Account": object_of({"id": TEXT, "email": TEXT}),
                "Tokens": object_of({"access_token": TEXT, "token_type": TEXT, "expires_in": NUMBER}),
                "Snapshot": object_of(
                    {
                        "cursor": TEXT,
                        "heartbeat": object_of({"at_us": NUMBER, "complete_until_us": NUMBER}),
                        "revocations": {"type": "array", "items": {"type": "object"}},
                    }
                ),
                "Reason": object_of({"field": TEXT, "code": TEXT, "detail": TEXT}),
                "Problem": object_of(
                    {"title": TEXT, "status": NUMBER, "code": TEXT, "detail": TEXT},
                    reasons={"type": "array", "items": ref("Reason")},
                    error=TEXT | {"description": "OAuth's name for it, where it has one"},
                ),
            },
        },
    }
    found["paths"] = with_links(with_origin_check(found["paths"]))
    return found
