"""The OpenAPI description of ``account_routes``."""

from __future__ import annotations

from typing import Any

from authix_issuer.openapi_parts import (
    BOOLEAN,
    JSON_TYPE,
    MOMENT,
    REFUSED_BODY,
    TEXT,
    TOO_MANY,
    body,
    call,
    content,
    object_of,
    problem,
    ref,
)

_EMAIL, _PASSWORD = TEXT | {"format": "email"}, TEXT | {"format": "password"}
_DONE = {"204": {"description": "Done, and durable. Access tokens of before are refused: get a new one."}}
_WRONG_PASSWORD = {"403": problem("The password is wrong (`password_wrong`).")}
_BUSY = {"409": problem("The account is being changed by others; try again (`account_busy`).")}
_GONE = {"404": problem("The account is gone (`account_unknown`).")}
_ACCOUNT = {"200": {"description": "The account.", "content": content(JSON_TYPE, ref("OwnAccount"))}}


PATHS: dict[str, Any] = {
    "/sessions": {
        "get": call(
            "sessions",
            "Your open sessions, the one opened last first",
            {
                "200": {
                    "description": "The sessions.",
                    "content": content(JSON_TYPE, object_of({"sessions": {"type": "array", "items": ref("Session")}})),
                }
            },
        ),
        "delete": call("end_other_sessions", "End all your other sessions, and revoke every access token", _DONE),
    },
    "/sessions/{session}": {
        "delete": call(
            "end_session",
            "End one of your sessions, and revoke its access tokens",
            {"204": {"description": "Ended, and durable."}},
            {"404": problem("You have no such open session (`session_unknown`).")},
            parameters=[{"name": "session", "in": "path", "required": True, "schema": TEXT}],
        )
    },
    "/account": {"get": call("account", "Your account", _ACCOUNT, _GONE)},
    "/account/password": {
        "post": call(
            "change_password",
            "Change your password; your other sessions end",
            _DONE,
            _WRONG_PASSWORD,
            _GONE,
            _BUSY,
            TOO_MANY,
            REFUSED_BODY,
            **body(object_of({"current_password": _PASSWORD, "new_password": _PASSWORD})),
        )
    },
    "/account/email": {
        "post": call(
            "change_email",
            "Change your email",
            _ACCOUNT,
            _WRONG_PASSWORD,
            _GONE,
            {"409": problem("The email is taken (`email_taken`), or others change the account (`account_busy`).")},
            TOO_MANY,
            REFUSED_BODY,
            **body(object_of({"password": _PASSWORD, "email": _EMAIL})),
        )
    },
    "/account/delete": {
        "post": call(
            "delete_account",
            "Delete your account; all its sessions end",
            {"204": {"description": "Gone, and durable; the cookie is cleared."}},
            _WRONG_PASSWORD,
            _GONE,
            _BUSY,
            TOO_MANY,
            REFUSED_BODY,
            **body(object_of({"password": _PASSWORD})),
        )
    },
}

SCHEMAS: dict[str, Any] = {
    "Session": object_of(
        {
            "id": TEXT,
            "created": MOMENT,
            "last_used": MOMENT,
            "expires": MOMENT,
            "user_agent": TEXT,
            "address": TEXT,
        },
        current=BOOLEAN,
    ),
    "OwnAccount": object_of(
        {
            "id": TEXT,
            "email": TEXT,
            "roles": {"type": "array", "items": TEXT},
            "claims": {"type": "object"},
            "created": MOMENT | {"nullable": True},
        }
    ),
}
