"""``python -m tests.servers.install``: install every server for the tests and for local runs, once.

A second run does nothing and needs no network. What cannot be installed is named with the reason; the others are
installed all the same, and the exit code is 1.
"""

from __future__ import annotations

import sys

from tests.servers import kafka, mongodb, redis
from tests.servers.packages import NotInstallable


def main() -> int:
    code = 0
    for name, install in (("Redis", redis.install), ("MongoDB", mongodb.install), ("Kafka", kafka.install)):
        try:
            sys.stdout.write(f"{name}: {install()}\n")
        except NotInstallable as reason:
            sys.stdout.write(f"{name}: not installed. {reason}\n")
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
