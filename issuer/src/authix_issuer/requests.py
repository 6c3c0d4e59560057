"""Requests as they come in.

Rule: a head has one reading. Sanic passes over what other servers refuse or take for something else: a space before a
colon, a folded line, a bare line feed, digits that are not ASCII, no host or two (RFC 9112, 3.2), chunks before
HTTP/1.1 (6.1). A proxy that sees a body where the issuer sees none would hand the answer to one client's request to
another. What is refused here is refused before anything else sees it, and ends its connection.
"""

from __future__ import annotations

import re
from typing import Any

from sanic import Request
from sanic.exceptions import BadRequest

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, 5.6.2
_HEAD = re.compile(rb"%b [!-~]+ HTTP/1\.[01](?:\r\n%b:[^\0\r\n]*)*" % (_TOKEN, _TOKEN))
_LENGTH = re.compile(r"[0-9]+[ \t]*", re.ASCII)
_NEWEST = "1.1"  # before, a request could do without a host, and there were no chunks
_NO_REQUEST = "NONE"
"""What Sanic calls the method of the request that it makes up for an answer to what is none."""


class StrictRequest(Request[Any, Any]):
    """Raises ``BadRequest`` for a head that could be read in another way."""

    def __init__(
        self, url_bytes: bytes, headers: Any, *, version: str, method: str, head: bytes = b"", **more: Any
    ) -> None:
        hosts = len(headers.getall("host", ()))
        if method == _NO_REQUEST:
            url_bytes = b"*"  # what was sent may be no URL, and then there would be no answer
        elif not _HEAD.fullmatch(head) or not _LENGTH.fullmatch(headers.get("content-length", "0")):
            raise BadRequest("the request's head is malformed")
        elif version != _NEWEST and "transfer-encoding" in headers:
            raise BadRequest("Transfer-Encoding needs HTTP/1.1")
        elif hosts > 1 or (not hosts and version == _NEWEST):
            raise BadRequest("the request must name its host, once")
        super().__init__(url_bytes, headers, version=version, method=method, head=head, **more)
