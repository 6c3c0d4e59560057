"""The links of the OpenAPI document: which call an answer leads on to, and what of the answer that call takes.

Rule: a link goes where a client goes next with what it has just been given; whoever walks along them, a reader or a
tool, comes from registration to logout and through the life of an account.
"""

from __future__ import annotations

from typing import Any

_USER, _PATH_USER = {"user": "$response.body#/id"}, {"user": "$request.path.user"}
_FIRST_USER, _FIRST_SESSION = {"user": "$response.body#/users/0/id"}, {"session": "$response.body#/sessions/0/id"}

_LINKS: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("register", "201"): {"login": {"requestBody": "$request.body"}},
    ("login", "200"): {
        name: {"description": f"with the {shown}"}
        for name, shown in (
            ("account", "access token"),
            ("sessions", "access token"),
            ("change_password", "access token"),
            ("change_email", "access token"),
            ("delete_account", "access token"),
            ("access_token", "cookie"),
            ("post_logout", "cookie or the access token"),
        )
    },
    ("access_token", "200"): {"account": {}, "sessions": {}, "end_other_sessions": {}, "delete_logout": {}},
    ("sessions", "200"): {"end_session": {"parameters": _FIRST_SESSION}, "end_other_sessions": {}},
    ("admin_create_user", "201"): {
        "login": {"requestBody": "$request.body"},
        **{
            name: {"parameters": _USER}
            for name in (
                "admin_show_user",
                "admin_change_user",
                "admin_reset_password",
                "admin_log_user_out",
                "admin_list_user_sessions",
                "admin_delete_user",
            )
        },
    },
    ("admin_list_users", "200"): {
        "admin_list_users": {"parameters": {"after": "$response.body#/after"}},
        "admin_show_user": {"parameters": _FIRST_USER},
        "admin_list_user_sessions": {"parameters": _FIRST_USER},
    },
    ("admin_change_user", "200"): {
        name: {"parameters": _USER} for name in ("admin_show_user", "admin_change_user", "admin_delete_user")
    },
    ("admin_list_user_sessions", "200"): {"admin_end_user_session": {"parameters": _PATH_USER | _FIRST_SESSION}},
    ("admin_delete_user", "204"): {"admin_show_user": {"parameters": _PATH_USER, "description": "It is gone."}},
    ("admin_list_keys", "200"): {
        "admin_rotate_keys": {},
        "admin_revoke_key": {"parameters": {"key": "$response.body#/keys/0/id"}},
    },
}


def with_links(paths: dict[str, Any]) -> dict[str, Any]:
    """``paths``, where each answer says what it leads on to."""
    return {
        path: {
            method: call
            | {
                "responses": {
                    status: response | _links_of(call["operationId"], status)
                    for status, response in call["responses"].items()
                }
            }
            for method, call in item.items()
        }
        for path, item in paths.items()
    }


def _links_of(operation: str, status: str) -> dict[str, Any]:
    links = _LINKS.get((operation, status), {})
    return {"links": {name: {"operationId": name} | link for name, link in links.items()}} if links else {}
