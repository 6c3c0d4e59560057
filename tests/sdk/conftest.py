"""Fixtures of the SDK's tests: a mint for good and bad tokens, a verifier of them, and an HTTP server that obeys."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any, NamedTuple

import jwt
import pytest
import pytest_asyncio
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from authix import Authix, Verifier, sse
from authix.events import Event, Heartbeat, encode_event
from authix.keys import AlgorithmName, KeySet, VerificationKey
from authix.tokens import base64url_encode
from tests.programs import free_port

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

NOW = 1_700_000_000


class Mint:
    """Makes tokens: good by default, and spoiled in any way a test wants."""

    issuer = "https://auth.example.com"
    audience = "orders"
    elsewhere = "https://attacker.example/keys"
    """Where an attacker's keys are."""

    def __init__(self, clock: Callable[[], float] = lambda: NOW) -> None:
        self._clock = clock
        self.keys: Mapping[str, PrivateKey] = _new_keys()
        self.strangers: Mapping[str, PrivateKey] = _new_keys()
        """Keys that no key set holds."""

    @property
    def now(self) -> int:
        return int(self._clock())

    def public(self, algorithm: str = "ES256") -> VerificationKey:
        return VerificationKey(self.keys[algorithm].public_key())

    def key_set(self, *algorithms: str) -> KeySet:
        return KeySet(self.public(name) for name in algorithms or self.keys)

    def header(self, algorithm: str = "ES256", **changes: Any) -> dict[str, Any]:
        return {"alg": algorithm, "kid": self.public(algorithm).key_id, "typ": "at+jwt"} | changes

    def payload(self, **changes: Any) -> dict[str, Any]:
        now = self.now
        whose = {"iss": self.issuer, "sub": "user-1", "aud": self.audience}
        times = {"iat": now, "exp": now + 300, "iat_us": now * 1_000_000}
        return {**whose, **times, "jti": "jti-1", "sid": "session-1", "roles": ["reader"], **changes}

    def __call__(self, algorithm: str = "ES256", /, *, without: Collection[str] = (), **changes: Any) -> str:
        """A token signed as it says, with these changes to its claims."""
        claims = {name: value for name, value in self.payload(**changes).items() if name not in without}
        return self.sign(self.header(algorithm), claims, algorithm)

    def fresh(self, algorithm: str = "ES256", /, **changes: Any) -> str:
        """A token issued now."""
        at_us = time.time_ns() // 1000
        times = {"iat": at_us // 1_000_000, "exp": at_us // 1_000_000 + 300, "iat_us": at_us}
        return self(algorithm, **times | changes)

    def headed(self, *, without: Collection[str] = (), **changes: Any) -> str:
        """A token signed with ES256, with these changes to its header."""
        header = {name: value for name, value in self.header(**changes).items() if name not in without}
        return self.sign(header, self.payload())

    def sign(
        self,
        header: Mapping[str, object] | bytes,
        payload: Mapping[str, object] | bytes,
        algorithm: str = "ES256",
        key: PrivateKey | None = None,
    ) -> str:
        """Sign these very objects or bytes, whatever the header says."""
        signed = f"{_segment(header)}.{_segment(payload)}"
        signature = jwt.get_algorithm_by_name(algorithm).sign(signed.encode(), key or self.keys[algorithm])
        return f"{signed}.{base64url_encode(signature)}"

    def hmac(self, header: Mapping[str, object], secret: bytes, digest: str = "sha256") -> str:
        signed = f"{_segment(header)}.{_segment(self.payload())}"
        return f"{signed}.{base64url_encode(hmac.digest(secret, signed.encode(), getattr(hashlib, digest)))}"


def _new_keys() -> Mapping[str, PrivateKey]:
    return {
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        "RS256": rsa.generate_private_key(65537, 2048),
    }


def _segment(content: Mapping[str, object] | bytes) -> str:
    data = content if isinstance(content, bytes) else json.dumps(content, separators=(",", ":")).encode()
    return base64url_encode(data)


@pytest.fixture(scope="session")
def mint() -> Mint:
    return Mint()


@pytest.fixture
def live_mint() -> Mint:
    """A mint whose tokens are issued now."""
    return Mint(time.time)


@pytest.fixture
def new_verifier(mint: Mint) -> Callable[..., Verifier]:
    """``new_verifier(leeway=…)``: a verifier of the mint's tokens with its keys and, at monotonic 0, a fresh feed."""

    def make(*, algorithms: Collection[AlgorithmName] = ("ES256", "EdDSA", "RS256"), **settings: Any) -> Verifier:
        verifier = Verifier(issuer=mint.issuer, audience=mint.audience, algorithms=frozenset(algorithms), **settings)
        verifier.use_keys(mint.key_set())
        verifier.apply(Heartbeat(at_us=0, complete_until_us=0), monotonic=0)
        return verifier

    return make


@pytest.fixture
def verifier(new_verifier: Callable[..., Verifier]) -> Verifier:
    return new_verifier()


class Received(NamedTuple):
    """A request as it came in; header names in lower case."""

    path: str
    headers: Mapping[str, str]


Send = Callable[[bytes], Awaitable[None]]
Answer = Callable[[Received, Send], Awaitable[None]]


class Peer:
    """A real HTTP server on loopback that answers each request as the test says, in raw bytes, and then hangs up."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.received: list[Received] = []
        self.answer: Answer = _not_found
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)

    async def stop(self) -> None:
        """Stop listening and cut every connection; ``start`` listens on the same port again."""
        if self._server is not None:
            self._server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
            await self._server.wait_closed()

    def of(self, path: str) -> list[Received]:
        return [request for request in self.received if request.path == path]

    @staticmethod
    def http(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
        """A whole answer; ``cache_control="…"`` is a header."""
        lines = {"content-length": str(len(body)), "connection": "close"}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                request_line, *lines = head.strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                request = Received(request_line.split(" ")[1], headers)
                self.received.append(request)

                async def send(data: bytes) -> None:
                    writer.write(data)
                    await writer.drain()

                await self.answer(request, send)
        finally:
            writer.close()


async def _not_found(_: Received, send: Send) -> None:
    await send(Peer.http(status="404 Not Found"))


class Authority(Peer):
    """Plays the issuer of the mint's tokens: a key set at /keys, and a feed at /feed with heartbeats while it beats."""

    def __init__(self, mint: Mint) -> None:
        super().__init__()
        self.answer = self._answer
        self.mint = mint
        self.keys = mint.key_set()
        self.answers_for_keys = asyncio.Event()
        self.answers_for_keys.set()
        self.beats = True
        self._log: list[bytes] = []

    def auth(self, **settings: Any) -> Authix:
        """An ``Authix`` that trusts this authority, not yet started."""
        return Authix(
            issuer=self.mint.issuer,
            audience=self.mint.audience,
            keys=f"{self.url}/keys",
            feed=f"{self.url}/feed",
            algorithms=frozenset({"ES256", "EdDSA", "RS256"}),
            **settings,
        )

    def announce(self, event: Event) -> None:
        self._log.append(encode_event(event))

    async def _answer(self, request: Received, send: Send) -> None:
        if request.path == "/keys":
            await self.answers_for_keys.wait()
            await send(self.http(self.keys.to_json()))
        elif request.path == "/feed":
            await send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            position = int(request.headers.get("last-event-id", 0))
            while True:
                for position in range(position + 1, len(self._log) + 1):  # noqa: B020 - it goes on from where it was
                    await send(sse.encode(self._log[position - 1], str(position)))
                if self.beats:
                    now_us = time.time_ns() // 1000
                    await send(sse.encode(encode_event(Heartbeat(at_us=now_us, complete_until_us=now_us))))
                else:
                    await send(b":\n\n")
                await asyncio.sleep(0.02)
        else:
            await send(self.http(status="404 Not Found"))


@pytest_asyncio.fixture
async def authority(mint: Mint) -> AsyncIterator[Authority]:
    found = Authority(mint)
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
def new_peer() -> Callable[[], Peer]:
    """``new_peer()``: a ``Peer`` not yet started, for tests that run event loops of their own."""
    return Peer


@pytest.fixture
def new_authority() -> Callable[[Mint], Authority]:
    """``new_authority(mint)``: as ``new_peer``."""
    return Authority


@pytest_asyncio.fixture
async def peer() -> AsyncIterator[Peer]:
    """A started ``Peer`` that knows nothing yet."""
    found = Peer()
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
def soon() -> Callable[..., Awaitable[None]]:
    """``await soon(condition, "what is awaited")``: wait until it holds, 20 s at most."""

    async def wait(condition: Callable[[], bool], what: str, within: float = 20) -> None:
        end = time.monotonic() + within
        while not condition():
            assert time.monotonic() < end, f"not within {within} s: {what}"
            await asyncio.sleep(0.01)

    return wait


Serve = Callable[..., Awaitable[str]]


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Serve]:
    """``await serve(app, lifespan="auto")``: the URL of an ASGI application that uvicorn serves."""
    running: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def begin(app: Any, **config: Any) -> str:
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, **config))
        task = asyncio.create_task(server.serve())
        running.append((server, task))
        while not server.started:
            assert not task.done(), "the server did not start"
            await asyncio.sleep(0.01)
        port: int = server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    yield begin
    for server, task in running:
        server.should_exit = True
        await task
