"""Ask a program of this machine whether it is ready: for the health commands of Authix's own programs.

Rule: the program's own ``/readyz`` is asked, where the settings say that it listens; what it says goes to the standard
output. No certificate is checked, for whoever could answer here in its place is on this machine already.
"""

from __future__ import annotations

import http.client
import ssl

_WITHIN = 2.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to be asked, not to be listened on


def report(host: str, port: int, *, tls: bool = False) -> int:
    """Print what the program that listens on ``host`` and ``port`` says; returns the exit code, 0 if it is ready."""
    host = _ANYWHERE.get(host, host)
    if tls:
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=_WITHIN, context=unchecked
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_WITHIN)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        said, ready = answer.read().decode("utf-8", "replace"), answer.status == http.client.OK
    except (OSError, http.client.HTTPException) as error:
        said, ready = f"{host} port {port} does not answer ({type(error).__name__})", False
    finally:
        connection.close()
    print(said)  # noqa: T201 - the answer of a command line
    return 0 if ready else 1
