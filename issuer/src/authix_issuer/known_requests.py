"""Requests for the published keys that are like one that was answered.

Rule: what such a request is answered follows from its head, the settings and the keys. So one whose bytes are those of
a request that was read, judged and answered gets the same bytes again, but for the request's id, for as long as the
document that it got is in use; and it is counted and logged like any other. Kept are only heads without a body, a
secret or an id of their own, and nothing is answered from here where requests are traced or each decision is logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from sanic import Request
from sanic.http import Http

from authix import tracing
from authix.access_log import AccessLog
from authix.recent import Recent
from authix.request_ids import new_id
from authix_issuer import request_ids
from authix_issuer.audit import OK
from authix_issuer.keys import Document
from authix_issuer.metrics import Metrics

_FIELDS = frozenset({"accept", "accept-encoding", "connection", "host", "if-none-match", "origin", "user-agent"})
_LONGEST = 2048
_MOST = 256
_END = b"\r\n\r\n"


class _Answered(NamedTuple):
    document: Document
    before: bytes
    """Of the answer, up to the request's id."""
    after: bytes
    route: str
    method: str
    path: str
    status: int


class KnownRequests:
    """``documents`` tells those that are in use."""

    def __init__(self, metrics: Metrics, access: AccessLog, documents: Callable[[], Collection[Document]]) -> None:
        self._metrics = metrics
        self._access = access
        self._documents = documents
        self._kept: Recent[bytes, _Answered] = Recent(_MOST)

    def answer(self, sent: bytes) -> bytes | None:
        """The answer to what a client ``sent`` between two requests; None: it has to be read."""
        known = self._kept.get(sent) if len(sent) <= _LONGEST else None  # to look for a long one takes its time
        if known is None or not self._is_in_use(known.document) or request_ids.logger.isEnabledFor(logging.DEBUG):
            return None
        began, name = time.perf_counter(), new_id()
        answer = known.before + name.encode("ascii") + known.after
        spent = time.perf_counter() - began
        self._metrics.answered(known.route, known.method, known.status, OK, spent)
        self._access.tell(known.method, known.path, known.status, spent, OK, request_id=name)
        return answer

    def keep(self, request: Request, document: Document, answer: bytes) -> None:
        """``request``, whose connection goes on, got this ``document`` by these bytes."""
        route, stream = request.route, request.stream
        if (
            tracing.makes_spans()
            or route is None
            or not isinstance(stream, Http)
            or not stream.keep_alive
            or len(request.head) + len(_END) > _LONGEST
            or not request.headers.keys() <= _FIELDS
        ):
            return
        before, _, after = answer.partition(request_ids.id_of(request).encode("ascii"))
        method, path = request_ids.route_of(request)
        known = _Answered(document, before, after, route.path, method, path, stream.response.status)
        self._kept.keep(request.head + _END, known)

    def _is_in_use(self, document: Document) -> bool:
        return any(document is used for used in self._documents())
