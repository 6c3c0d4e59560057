"""The OpenAPI description of ``admin_routes``."""

from __future__ import annotations

from typing import Any

from authix_issuer.grants import MAX_ROLES, ROLE
from authix_issuer.openapi_parts import (
    BOOLEAN,
    JSON_TYPE,
    MOMENT,
    NUMBER,
    REFUSED_BODY,
    TEXT,
    body,
    call,
    content,
    object_of,
    problem,
    ref,
)

_EMAIL, _PASSWORD = TEXT | {"format": "email"}, TEXT | {"format": "password"}
_ROLES = {
    "type": "array",
    "items": TEXT | {"pattern": f"^{ROLE.pattern}$"},
    "maxItems": MAX_ROLES,
    "uniqueItems": True,
}
_CLAIMS = {
    "type": "object",
    "description": "What access tokens say besides the registered claims; at most 2 KiB and 8 levels deep.",
}
_FORBIDDEN = {"403": problem("The access token lacks the administrators' role (`role_missing`, RFC 6750).")}
_DONE = {"204": {"description": "Done, and durable. The account's access tokens are revoked."}}
_UNKNOWN = {"404": problem("There is no such account (`account_unknown`).")}
_BUSY_TEXT = "Others are changing the account; try again (`account_busy`)"
_BUSY = {"409": problem(f"{_BUSY_TEXT}.")}
_BUSY_OR_ONESELF = {"409": problem(f"{_BUSY_TEXT}, or it is one's own (`self_lockout`).")}
_QUERY = {"422": problem("The query is not acceptable; `reasons` says why (`input_invalid`).")}


def _path(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in names]


def _query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": TEXT | schema}


def _answer(status: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {status: {"description": description, "content": content(JSON_TYPE, schema)}}


def _list_of(name: str, item: str) -> dict[str, Any]:
    return {name: {"type": "array", "items": ref(item)}}


def _call(name: str, summary: str, *answers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return call(name, summary, *answers, _FORBIDDEN, tags=["administration"], **more)


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return body(schema | {"additionalProperties": False})


PATHS: dict[str, Any] = {
    "/admin/users": {
        "get": _call(
            "admin_list_users",
            "The accounts, by id, a page at a time; or the one with an email",
            _answer(
                "200",
                "A page; `after` is where the next one begins, null after the last.",
                object_of(_list_of("users", "ManagedAccount") | {"after": TEXT | {"nullable": True}}),
            ),
            _QUERY,
            parameters=[
                _query("email", "the email of one account", format="email"),
                _query("after", "the id after which the page begins", pattern="^([0-9a-f]{32})?$"),
                _query("limit", "accounts in the page", type="integer", minimum=1, maximum=1000, default=100),
            ],
        ),
        "post": _call(
            "admin_create_user",
            "Add an account",
            _answer("201", "Added.", ref("ManagedAccount")),
            {"409": problem("There already is an account with this email (`email_taken`).")},
            REFUSED_BODY,
            **_body(object_of({"email": _EMAIL, "password": _PASSWORD}, roles=_ROLES, claims=_CLAIMS)),
        ),
    },
    "/admin/users/{user}": {
        "get": _call(
            "admin_show_user",
            "An account",
            _answer("200", "The account.", ref("ManagedAccount")),
            _UNKNOWN,
            parameters=_path("user"),
        ),
        "patch": _call(
            "admin_change_user",
            "Set roles, claims and state of an account, those that are given",
            _answer(
                "200",
                "Changed, and durable. Its access tokens are revoked; the next refresh carries the new roles and "
                "claims. Disabling ends its sessions.",
                ref("ManagedAccount"),
            ),
            _UNKNOWN,
            _BUSY_OR_ONESELF,
            REFUSED_BODY,
            parameters=_path("user"),
            **_body(
                object_of({}, roles=_ROLES, claims=_CLAIMS, state=TEXT | {"enum": ["active", "disabled"]})
                | {"minProperties": 1}
            ),
        ),
        "delete": _call(
            "admin_delete_user",
            "Delete an account; its sessions end, its email is free again",
            _DONE,
            _UNKNOWN,
            _BUSY_OR_ONESELF,
            parameters=_path("user"),
        ),
    },
    "/admin/users/{user}/logout": {
        "post": _call(
            "admin_log_user_out",
            "End every session of an account",
            _DONE,
            _UNKNOWN,
            _BUSY,
            parameters=_path("user"),
        )
    },
    "/admin/users/{user}/password": {
        "post": _call(
            "admin_reset_password",
            "Give an account another password; every session ends",
            _DONE,
            _UNKNOWN,
            _BUSY,
            REFUSED_BODY,
            parameters=_path("user"),
            **_body(object_of({"password": _PASSWORD})),
        )
    },
    "/admin/users/{user}/sessions": {
        "get": _call(
            "admin_list_user_sessions",
            "The open sessions of an account, the one opened last first",
            _answer("200", "The sessions.", object_of(_list_of("sessions", "Session"))),
            _UNKNOWN,
            parameters=_path("user"),
        )
    },
    "/admin/users/{user}/sessions/{session}": {
        "delete": _call(
            "admin_end_user_session",
            "End one session of an account, and revoke its access tokens",
            {"204": {"description": "Ended, and durable."}},
            {"404": problem("The account has no such session (`session_unknown`).")},
            parameters=_path("user", "session"),
        )
    },
    "/admin/keys": {
        "get": _call(
            "admin_list_keys",
            "The signing keys, the oldest first",
            _answer("200", "The keys; never the private parts.", object_of(_list_of("keys", "SigningKey"))),
        )
    },
    "/admin/keys/rotate": {
        "post": _call(
            "admin_rotate_keys",
            "Have the next key sign; with `now` even if not every verifier can know it yet",
            _answer("200", "The key that signs now.", ref("SigningKey")),
            {"409": problem("The next key is not ready (`key_not_ready`), or there are too many (`keys_too_many`).")},
            REFUSED_BODY,
            **_body(object_of({}, now=BOOLEAN | {"default": False})),
        )
    },
    "/admin/keys/{key}": {
        "delete": _call(
            "admin_revoke_key",
            "Withdraw a key for ever: its tokens are refused everywhere. Repeatable",
            _answer("200", "Revoked; `announced` says whether verifiers were told already.", ref("SigningKey")),
            {"404": problem("There is no such key (`key_unknown`).")},
            parameters=_path("key"),
        )
    },
    "/admin/stats": {
        "get": _call(
            "admin_stats",
            "How the issuer is",
            _answer("200", "Figures; null where the engine that knows them is away.", ref("Stats")),
        )
    },
}

_OPEN_MOMENT = MOMENT | {"nullable": True}
_KEY = {
    "id": TEXT,
    "algorithm": TEXT,
    "state": TEXT | {"enum": ["next", "signing", "retired", "revoked"]},
    "since": _OPEN_MOMENT,
    "until": _OPEN_MOMENT,
    "announced": BOOLEAN,
}
_COUNT = NUMBER | {"nullable": True}

SCHEMAS: dict[str, Any] = {
    "ManagedAccount": object_of(
        {
            "id": TEXT,
            "email": TEXT,
            "roles": {"type": "array", "items": TEXT},
            "claims": {"type": "object"},
            "created": _OPEN_MOMENT,
            "state": TEXT | {"enum": ["active", "disabled", "deleted"]},
        }
    ),
    "SigningKey": object_of(_KEY),
    "Stats": object_of(
        {
            "time": MOMENT,
            "users": _COUNT,
            "revocations": _COUNT,
            "keys": {
                "type": "array",
                "items": object_of(_KEY | {"age": _COUNT | {"description": "seconds in its state"}}),
                "nullable": True,
            },
            "hashing": object_of({"passwords": NUMBER, "at_most": NUMBER}),
            "degraded": {
                "type": "object",
                "description": "by the engine that does not do what it should: why",
                "additionalProperties": TEXT,
            },
        }
    ),
}
