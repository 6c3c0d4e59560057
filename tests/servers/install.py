"""``python -m tests.servers.install [NAME …]``: install what the tests need beyond Python packages, once.

That is servers (also for local runs), JWT libraries of other languages, and test vectors; all, or those named. A second
run does nothing and needs no network. What cannot be installed is told with the reason; the others are installed all
the same, and the exit code is 1.
"""

from __future__ import annotations

import sys

from tests.interop.programs import CLIENTS, LIBRARIES, SPRING, VECTORS
from tests.servers import deploy_tools, kafka, mongodb, proxies, redis, rule_tools, token_proxies
from tests.servers.packages import NotInstallable


def main() -> int:
    code = 0
    others = {type(program).__name__: program.install for program in (*LIBRARIES, *CLIENTS, SPRING, VECTORS)}
    servers = {
        "Redis": redis.install,
        "MongoDB": mongodb.install,
        "Kafka": kafka.install,
        "Proxies": proxies.install,
        "OAuth2Proxy": token_proxies.install,
        "DeployTools": deploy_tools.install,
        "RuleTools": rule_tools.install,
    }
    known = servers | others
    for name in sys.argv[1:] or known:
        install = known[name]
        try:
            sys.stdout.write(f"{name}: {install()}\n")
        except NotInstallable as reason:
            sys.stdout.write(f"{name}: not installed. {reason}\n")
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
