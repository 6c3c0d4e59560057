"""The proxy port: decide over a request, pass it on, pass the answer back.

Rule: nothing of a request goes upstream before it may pass. The fast path is synchronous from the request's bytes to
the upstream's socket and back; only an unknown key id and a new connection are waited for. Either side's full buffer
stops the other's reading.
"""

from __future__ import annotations

from authix.claims import Claims
from authix.errors import AuthixError
from authix.streams import OpenStreams, Stream
from authix_sidecar import rewrite
from authix_sidecar.answers import AnswerHead
from authix_sidecar.decide import ALLOWED
from authix_sidecar.downstream import ClientConnection
from authix_sidecar.errors import UpstreamError
from authix_sidecar.fields import Field, noted
from authix_sidecar.forwarded import IsListed, client_address
from authix_sidecar.identity import Identities
from authix_sidecar.judged import Judge, JudgedExchange
from authix_sidecar.pool import Pool
from authix_sidecar.requests import RequestHead
from authix_sidecar.rewrite import Framing
from authix_sidecar.upstream import UpstreamConnection
from authix_sidecar.websockets import GOING_AWAY, FrameEnds, close_frame, is_websocket

SHUTTING_DOWN = "shutting_down"
_FORWARDED_FOR = frozenset({b"x-forwarded-for"})
_IDEMPOTENT = frozenset({b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PUT"})  # RFC 9110, 9.2.2, without TRACE


class Proxy:
    """Everything that the exchanges of the proxy port share."""

    def __init__(
        self,
        judge: Judge,
        pool: Pool,
        streams: OpenStreams,
        *,
        upstream: str,
        is_listed: IsListed | None = None,
        lasting: bool = False,
        identities: Identities | None = None,
    ) -> None:
        """``upstream`` is the ``Host`` of a request that has none (HTTP/1.0), ``is_listed`` as in ``request_head``.

        ``lasting``: what goes on for long outlives its token's expiry.
        """
        self.judge = judge
        self.metrics = judge.metrics
        self.pool = pool
        self.streams = streams
        self.upstream = upstream.encode("ascii")
        self.is_listed = is_listed
        self.lasting = lasting
        self.identities = identities

    def begin(self, client: ClientConnection, request: RequestHead, body: bytes) -> None:
        ProxyExchange(self, client, request, body).begin()


class ProxyExchange(JudgedExchange):
    """One request on its way to the upstream and back."""

    def __init__(self, proxy: Proxy, client: ClientConnection, request: RequestHead, body: bytes) -> None:
        super().__init__(proxy.judge, client, request)
        self._proxy = proxy
        self._body = body
        self._claims: Claims | None = None
        self._upstream: UpstreamConnection | None = None
        self._framing = Framing.NONE
        self._stream: Stream | None = None
        self._endless = False
        self._client_sent_all = False
        self._tunnel_ends = 0
        self._frames: FrameEnds | None = None

    def allow(self, claims: Claims | None) -> None:
        self._claims = claims
        upstream = self._proxy.pool.take()
        if upstream is None:
            self.wait_for(self._connect())
        else:
            self._send(upstream)

    def _client_address(self) -> bytes:
        peer, is_listed = self._client.peer, self._proxy.is_listed
        if is_listed is None or not is_listed(peer):
            return peer
        said = noted(self._request.fields, _FORWARDED_FOR)
        return client_address(peer, said.get(b"x-forwarded-for", ()), is_listed)

    # --- the way there

    async def _connect(self) -> None:
        try:
            upstream = await self._proxy.pool.connect()
        except UpstreamError as error:
            self._fail(error)
        else:
            self._send(upstream)

    def _send(self, upstream: UpstreamConnection) -> None:
        self._upstream = upstream
        request, claims, identities = self._request, self._claims, self._proxy.identities
        head = rewrite.request_head(
            request,
            claims,
            peer=self._client.peer,
            scheme=self._client.scheme,
            upstream=self._proxy.upstream,
            is_listed=self._proxy.is_listed,
            proof=identities.line(claims) if identities is not None and claims is not None else b"",
            request_id=self._client.request_id,
        )
        data = head + self._framed(self._body)
        if request.chunked and self._client.body_complete:
            data += rewrite.LAST_CHUNK
        waits = request.expects_continue and not self._body
        self._body = b""
        if not self._client.body_complete and not self._open_stream():
            return
        self._client.release()
        upstream.begin(
            self,
            data,
            method=request.method,
            asked=request.upgrade,
            whole=self._client.body_complete,
            waits=waits,
        )

    def _framed(self, content: bytes) -> bytes:
        return rewrite.chunk(content) if self._request.chunked and content else content

    def body(self, data: bytes) -> None:
        if self._upstream is not None:
            self._upstream.write(self._framed(data))

    def body_end(self) -> None:
        if not self._client.status:
            self._close_stream()  # a request that is here whole is answered
        if self._upstream is not None:
            if self._request.chunked:
                self._upstream.write(rewrite.LAST_CHUNK)
            self._upstream.request_end()

    def upstream_slow(self) -> None:
        self._client.hold()

    def upstream_ready(self) -> None:
        self._client.release()

    # --- the way back

    def interim(self, status: int, found: list[Field]) -> None:
        request = self._request
        if request.minor and (status != 100 or request.expects_continue):
            self._client.send(rewrite.interim_head(status, found))

    def answer(self, head: AnswerHead, content: list[bytes], *, complete: bool) -> None:
        if not complete and not self._open_stream():
            return
        minor = self._request.minor
        self._client.begin_answer(head.status)
        self._framing = how = rewrite.framing(head, minor)
        if head.event_stream and not complete and self._upstream is not None:
            self._endless = True
            self._upstream.be_patient()
        keep_alive = self._client.keep_alive(possible=how is not Framing.CLOSE)
        self._pass_back(
            [rewrite.answer_head(head, how, minor=minor, keep_alive=keep_alive)], content, complete=complete
        )
        if self._endless and self._client.draining:
            self.drain()

    def answer_more(self, content: list[bytes], *, complete: bool) -> None:
        self._pass_back([], content, complete=complete)

    def _pass_back(self, parts: list[bytes], content: list[bytes], *, complete: bool) -> None:
        if self._framing is Framing.CHUNKED:
            if size := sum(map(len, content)):
                parts += (b"%x\r\n" % size, *content, b"\r\n")
            if complete:
                parts.append(rewrite.LAST_CHUNK)
        else:
            parts += content
        self._client.send(b"".join(parts))
        if complete:
            self._close_stream()
            self._leave_upstream(done=self._client.body_complete)
            self._client.finish()

    def client_slow(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def client_ready(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    # --- tunnels

    def upgraded(self, head: AnswerHead, behind: bytes) -> None:
        if not self._open_stream():
            return
        self._endless = True
        self._client.begin_answer(head.status)
        self._client.code = ALLOWED
        self._client.send(rewrite.answer_head(head, Framing.NONE, minor=1, keep_alive=True) + behind)
        if is_websocket(head.upgrade):
            self._frames = FrameEnds()
            self._frames.feed(behind)
        early = self._client.start_tunnel()
        if early and self._upstream is not None:
            self._upstream.write(early)
        if self._client_sent_all:
            self.client_ended()
        if self._client.draining:
            self.drain()

    def tunnelled(self, data: bytes) -> None:
        if self._upstream is not None:
            self._upstream.write(data)

    def tunnelled_back(self, data: bytes) -> None:
        if self._frames is not None:
            self._frames.feed(data)
        self._client.send(data)

    @property
    def _may_speak(self) -> bool:
        """Whether a frame of ours could stand here."""
        return self._frames is not None and self._frames.between and not self._client.behind

    def client_ended(self) -> bool:
        if self._client.status != 101:
            self._client_sent_all = True
            # an event stream has no end that could still be waited for
            return not self._endless
        if self._upstream is not None:
            self._upstream.write_end()
        return self._tunnel_goes_on()

    def upstream_ended(self) -> None:
        self._client.send_end()
        if not self._tunnel_goes_on():
            self._client.break_off()

    def _tunnel_goes_on(self) -> bool:
        self._tunnel_ends += 1
        return self._tunnel_ends < 2

    # --- ends

    def upstream_lost(self, error: UpstreamError, *, stale: bool) -> None:
        self._upstream = None
        if self._client.status == 101:
            self._client.break_off()
        elif self._client.status:
            self._proxy.metrics.upstream_errors[error.code] += 1
            self._client.code = error.code
            self._client.break_off()
        elif stale and self._request.method in _IDEMPOTENT and not self._request.has_body:
            # once, because a new connection is not stale
            self.wait_for(self._connect())
        else:
            self._fail(error)

    def client_lost(self) -> None:
        super().client_lost()
        self._close_stream()
        self._leave_upstream()

    def drain(self) -> None:
        if not self._endless:
            return
        self._client.code = SHUTTING_DOWN
        if self._may_speak:
            self._client.end_tunnel(close_frame(SHUTTING_DOWN, GOING_AWAY))
        else:
            self._client.break_off()

    def _leave_upstream(self, *, done: bool = False) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.leave(done=done)

    def _fail(self, error: UpstreamError) -> None:
        self._close_stream()
        self._proxy.metrics.upstream_errors[error.code] += 1
        self._client.refuse(error)

    # --- the end of the token

    def _open_stream(self) -> bool:
        """Let the request go on for as long as its token lives; False: it is dead already."""
        if self._claims is not None and self._stream is None:
            try:
                self._stream = self._proxy.streams.add(self._claims, self._cut, lasting=self._proxy.lasting)
            except AuthixError as error:
                self._end_by(error)
                return False
        return True

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._proxy.streams.remove(self._stream)
            self._stream = None

    def _cut(self, error: AuthixError) -> None:
        self._proxy.metrics.cuts[error.code] += 1
        self._end_by(error)

    def _end_by(self, error: AuthixError) -> None:
        self._leave_upstream()
        if self._client.status:
            self._client.code = error.code
            if self._may_speak:
                self._client.end_tunnel(close_frame(error.code))
            else:
                self._client.abort()
        else:
            self._client.refuse(error)
