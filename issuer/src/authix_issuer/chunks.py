"""Bodies as they come in.

Rule: a body in chunks has one reading (RFC 9112, 7.1). Sanic passes over what other servers refuse: two bytes of any
kind where a chunk ends, ``0x`` and spaces about its size. A proxy that takes it for something else would see a request
end elsewhere than the issuer does. What is refused ends its connection.
"""

from __future__ import annotations

import re

from sanic.exceptions import BadRequest
from sanic.http import Http
from sanic.http.http1 import HTTP_CONTINUE

_LINE = re.compile(rb"\r\n[0-9A-Fa-f]{1,8}(?:;[\t -~]*)?\r\n")
"""From the end of what stands before a chunk to its first byte."""
_LONGEST = 64


class StrictHttp(Http):
    """Sanic's reading of a connection, with the rule above."""

    async def read(self) -> bytes | None:
        body: object = self.request_body  # Sanic's type for it is another
        if body == "chunked" and not self.request_bytes_left:
            await self._check_line()
        return await super().read()

    async def _check_line(self) -> None:
        if self.expecting_continue:
            self.expecting_continue = False
            await self._send(HTTP_CONTINUE)
        received = self.recv_buffer
        while (end := received.find(b"\r\n", 2)) < 0 and len(received) <= _LONGEST:
            await self._receive_more()
        # however the packets come, one that is longer is refused
        if not 0 <= end <= _LONGEST or not _LINE.fullmatch(bytes(received[: end + 2])):
            self.keep_alive = False
            raise BadRequest("the body's chunks are malformed")
