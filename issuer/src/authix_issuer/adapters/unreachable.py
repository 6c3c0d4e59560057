"""Why an engine can't be used, for whoever set its URL.

Rule: the end of a sentence that begins with the setting's name; it says what to do, and holds nothing of the URL, which
has a password in it. Drivers wrap what went wrong, some in text alone, so the whole chain is looked at.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Spelling(NamedTuple):
    """How the URL of an engine says something."""

    tls: str
    ca: str


MONGODB: Final = Spelling("?tls=true", "tlsCAFile")
REDIS: Final = Spelling("rediss://", "ssl_ca_certs")

_MISMATCH = ("address mismatch", "hostname mismatch", "doesn't match")
_UNTRUSTED = ("CERTIFICATE_VERIFY_FAILED",)
_NO_FILE = ("No such file", "not readable", "Permission denied", "NO_CERTIFICATE_OR_CRL_FOUND", "PEM lib")
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
_CLOSED = ("closed by server", "connection closed", "reset by peer", "EOF occurred", "UNEXPECTED_EOF")
_REFUSED = ("AuthenticationError", "WRONGPASS", "NOAUTH", "Authentication failed")
_FORBIDDEN = ("NoPermissionError", "NOPERM", "no permissions", "not authorized")
_NOBODY = ("Connection refused", "ConnectionRefusedError", "Connect call failed")
_SILENT = ("TimeoutError", "timed out")
_UNKNOWN_HOST = ("Name or service not known", "nodename nor servname", "No address associated", "name resolution")


def why(error: BaseException, spelling: Spelling) -> str:
    """What it does, and how to mend that."""
    said = _said(error)
    for signs, sentence in (
        (_MISMATCH, "shows a certificate of another host: use a name in the URL that its certificate has"),
        (
            _UNTRUSTED,
            (
                "shows a certificate that is not trusted: name the file of its authority's certificate by "
                f"{spelling.ca}= in the URL"
            ),
        ),
        (_NO_FILE, f"can't be trusted: the file of certificates that its URL names by {spelling.ca}= can't be read"),
        (_NO_TLS, f"does not speak TLS there: name its TLS port, or leave {spelling.tls} out of the URL"),
        (_REFUSED, "refuses the user or the password: mend them in the URL"),
        (_FORBIDDEN, "forbids its user what a start needs: mend the rights of that user"),
        (
            _CLOSED,
            (
                f"closes the connection at once: if it expects TLS, say so by {spelling.tls} in the URL; if not, look "
                "at its log"
            ),
        ),
        (_UNKNOWN_HOST, "has a host name that nobody knows: mend the URL"),
        (_NOBODY, "does not answer, for nobody listens there: start it, or mend host and port in the URL"),
        (
            _SILENT,
            (
                "does not answer in time: it hangs, or what is sent to it is dropped on the way; look at its log, "
                "restart it, or mend the URL (also whether it speaks TLS)"
            ),
        ),
    ):
        if any(sign in said for sign in signs):
            return sentence
    code = getattr(error, "code", None)
    kind = f"{type(error).__name__}, code {code}" if code else type(error).__name__
    return f"does not answer ({kind}): start it, or mend the URL (also whether it speaks TLS)"


def _said(error: BaseException) -> str:
    said, link = "", error
    seen: set[int] = set()
    while id(link) not in seen:
        seen.add(id(link))
        said += f"{type(link).__name__} {link}\n"
        link = link.__cause__ or link.__context__ or link
    return said
