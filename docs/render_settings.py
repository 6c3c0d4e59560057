"""Renders docs/settings.md from the settings' declarations: ``make docs``. A test holds the page against them."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from authix.settings import fields_of, spell
from authix.verifier_settings import VerifierSettings
from authix_issuer.settings import IssuerSettings
from authix_sidecar.settings import SidecarSettings

PAGE = Path(__file__).parent / "settings.md"


HEAD = """# Settings

<!-- Written by docs/render_settings.py (`make docs`). -->

Every setting has a name in the environment. `NAME_FILE` reads it from a file instead, such as a mounted secret; a flag
of the programs (`--access-ttl 300` for `AUTHIX_ACCESS_TTL`) or an argument in code wins over both. What is given nowhere
else is read from the file of its name in the folder `AUTHIX_SETTINGS_DIR`, and `authix-issuer config` prints what is in
force ([more](operations.md#where-a-setting-comes-from)). Secrets have no flag, since flags show in the process list. A missing or wrong setting stops the start with exit code 2 and one sentence each
that says how to mend it. `authix-issuer doctor` looks at the settings and at every engine behind them.

In code, the SDK takes the same settings as arguments: `Authix(issuer=…, audience=…, feed=…)`.
"""

COOKIES = """
## The two cookie profiles

The refresh token's cookie is set by `AUTHIX_COOKIE_PROFILE`, never by guessing from a request.

| profile | cookie | for |
|---|---|---|
| `secure` | `__Host-authix_refresh`, Secure, HttpOnly, SameSite=Strict, Path=/ | everything that is reached over https |
| `development` | `authix_refresh`, HttpOnly, SameSite=Strict, Path=/ | plain http on your own machine; `make run` uses it |

## Engines

| what | embedded default | at scale |
|---|---|---|
| users and signing keys | SQLite in `AUTHIX_DATA_DIR` | `AUTHIX_USERS_URL=mongodb://user:password@host:27017/authix` |
| sessions and the revocation log | SQLite in `AUTHIX_DATA_DIR` | `AUTHIX_SESSIONS_URL=redis://:password@host:6379` (or `rediss://`; one Redis or a Redis Cluster, found out at the start) |
| logout topic | the issuer's HTTP feed | `AUTHIX_KAFKA=host:9092`; verifiers: `AUTHIX_FEED=kafka://host:9092/authix.logout,https://auth.example.com/revocations` |

TLS and passwords of MongoDB and Redis are part of their URLs (`tls=true`, `tlsCAFile=…`; `rediss://…?ssl_ca_certs=…`);
those of Kafka are settings of their own.
"""


def table(settings: type[Any], *, beside: frozenset[str] = frozenset()) -> str:
    rows = ["| name | default | what it is |", "|---|---|---|"]
    for field in fields_of(settings):
        meta = field.metadata
        if meta["name"] in beside:
            continue
        # what this machine says for itself must not get into the page
        machine = field.name == "hash_threads" and field.default == os.cpu_count()
        default = "one a core" if machine else spell(field.default)
        shown = "**required**" if field.default is dataclasses.MISSING else f"`{default}`" if default else ""
        secret = " (secret)" if meta["secret"] else ""
        rows.append(f"| `{meta['name']}` | {shown} | {meta['help']}{secret} |".replace("  ", " "))
    return "\n".join(rows) + "\n"


def names(settings: type[Any]) -> frozenset[str]:
    return frozenset(field.metadata["name"] for field in dataclasses.fields(settings))


def render() -> str:
    return (
        f"{HEAD}\n## Issuer\n\n{table(IssuerSettings)}"
        f"\n## Verifier: the SDK and the sidecar\n\n{table(VerifierSettings)}"
        f"\n## Sidecar, besides those of a verifier\n\n{table(SidecarSettings, beside=names(VerifierSettings))}{COOKIES}"
    )


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} written\n")
