"""The walk's service on gRPC with coroutines: ``grpc_aio_service.py PORT``."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from authix import Authix, WhenStale
from authix.grpc import AuthixInterceptor, current_claims

auth = Authix()


async def open_to_all(_: bytes, __: Any) -> bytes:
    try:
        subject = current_claims().subject
    except RuntimeError:
        subject = None
    return json.dumps({"ready": auth.ready(), "subject": subject}).encode()


async def me(_: bytes, __: Any) -> bytes:
    claims = current_claims()
    return json.dumps({"subject": claims.subject, "session": claims.session, "roles": sorted(claims.roles)}).encode()


async def ticks(_: bytes, __: Any) -> AsyncIterator[bytes]:
    yield current_claims().subject.encode()
    await asyncio.Event().wait()  # silent for ever


async def count(messages: AsyncIterator[bytes], _: Any) -> bytes:
    return f"{current_claims().subject} {len([message async for message in messages])}".encode()


async def echo(messages: AsyncIterator[bytes], context: Any) -> None:
    async for message in messages:
        await context.write(current_claims().subject.encode() + b" " + message)


METHODS: dict[str, Any] = {
    "Open": grpc.unary_unary_rpc_method_handler(open_to_all),
    "Me": grpc.unary_unary_rpc_method_handler(me),
    "Admin": grpc.unary_unary_rpc_method_handler(me),
    "Lax": grpc.unary_unary_rpc_method_handler(me),
    "Ticks": grpc.unary_stream_rpc_method_handler(ticks),
    "Count": grpc.stream_unary_rpc_method_handler(count),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
}


async def serve(port: str) -> None:
    interceptor = AuthixInterceptor(
        auth,
        public=["/walk.Walk/Open", "/open.Service/*"],
        roles={"/walk.Walk/Admin": ["admin"]},
        when_stale={"/walk.Walk/Lax": WhenStale.ACCEPT},
    )
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with auth:
        server = grpc.aio.server(interceptors=[interceptor])
        server.add_registered_method_handlers("walk.Walk", METHODS)
        server.add_registered_method_handlers("open.Service", {"Open": METHODS["Open"]})
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await ended.wait()
        await server.stop(0.5)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
