"""Accounts, sessions, keys and figures as JSON: what their owners and administrators are shown.

Rule: never a secret or the hash of one; a moment is a text by RFC 3339, or null where there is none.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from authix_issuer.administration import Stats
from authix_issuer.live_keys import KeyReport
from authix_issuer.ports import OpenSession, User


def shown_session(session: OpenSession) -> dict[str, Any]:
    return {
        "id": session.id,
        "created": moment(session.opened_us),
        "last_used": moment(session.refreshed_us),
        "expires": moment(session.expires_us),
        "user_agent": session.device.agent,
        "address": session.device.address,
    }


def shown_account(user: User) -> dict[str, Any]:
    return {
        "id": user.id,
        "email": user.email,
        "roles": list(user.roles),
        "claims": dict(user.claims),
        "created": moment(user.created_us) if user.created_us else None,
    }


def moment(epoch_us: int) -> str:
    """As RFC 3339 writes it, in UTC."""
    return datetime.fromtimestamp(epoch_us / 1_000_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shown_to_admins(user: User) -> dict[str, Any]:
    return shown_account(user) | {"state": user.state.value}


def shown_key(key: KeyReport) -> dict[str, Any]:
    return {
        "id": key.id,
        "algorithm": key.algorithm,
        "state": key.state.value,
        "since": moment(key.since_us) if key.since_us else None,
        "until": moment(key.until_us) if key.until_us else None,
        "announced": key.announced,
    }


def shown_stats(stats: Stats) -> dict[str, Any]:
    return {
        "time": moment(stats.at_us),
        "users": stats.users,
        "revocations": stats.revocations,
        "keys": None if stats.keys is None else [shown_key(key) | _age(key, stats.at_us) for key in stats.keys],
        "hashing": {"passwords": stats.hashing, "at_most": stats.hashing_most},
        "degraded": dict(stats.degraded),
    }


def _age(key: KeyReport, at_us: int) -> dict[str, int | None]:
    """How many seconds it has been in its state."""
    return {"age": max(0, at_us - key.since_us) // 1_000_000 if key.since_us else None}
