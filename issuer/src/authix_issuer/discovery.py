"""The issuer's metadata: what a program finds out from the issuer's URL alone (RFC 8414, OpenID Connect Discovery 1.0).

Rule: it says what is true of this issuer and nothing else. Its OAuth is not a whole one: there are no grants, no token
endpoint and no ID tokens, so what these documents ask for about them is an empty list or is not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlsplit

from authix_issuer.settings import IssuerSettings

NAMES = ("oauth-authorization-server", "openid-configuration")


def paths(issuer: str) -> tuple[str, ...]:
    """Where the document is looked for.

    An issuer's own path stands after the well-known name (RFC 8414, 3.1) or before it (OpenID Connect); what stands
    before it is taken off by the proxy that also does so for every other path.
    """
    own = quote(urlsplit(issuer).path, safe="/%:@!$&'()*+,;=~")
    return tuple(f"/.well-known/{name}{after}" for name in NAMES for after in dict.fromkeys(("", own)))


def metadata(settings: IssuerSettings, algorithms: Iterable[str]) -> dict[str, Any]:
    """``algorithms`` are those of the published keys."""
    issuer = settings.issuer
    found = {
        "issuer": issuer,
        "jwks_uri": f"{issuer}/.well-known/jwks.json",
        "revocation_endpoint": f"{issuer}/revoke",
        "revocation_endpoint_auth_methods_supported": ["none"],
        "response_types_supported": [],
        "grant_types_supported": [],
        "subject_types_supported": ["public"],
        # of access tokens: who reads this asks by which algorithms the keys of jwks_uri sign
        "id_token_signing_alg_values_supported": list(dict.fromkeys([settings.algorithm, *algorithms])),
        "service_documentation": f"{issuer}/docs",
        "authix_feed_endpoint": f"{issuer}/revocations",
    }
    if settings.introspection_token:
        found["introspection_endpoint"] = f"{issuer}/introspect"
        found["introspection_endpoint_auth_methods_supported"] = ["client_secret_basic", "Bearer"]
    return found
