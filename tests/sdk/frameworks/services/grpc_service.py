"""The walk's service on gRPC with threads: ``grpc_service.py PORT``. Messages are bytes, so no code is generated."""

from __future__ import annotations

import json
import queue
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from authix import SyncAuthix, WhenStale
from authix.grpc import SyncAuthixInterceptor, current_claims

auth = SyncAuthix()


def open_to_all(_: bytes, __: grpc.ServicerContext) -> bytes:
    try:
        subject = current_claims().subject
    except RuntimeError:
        subject = None
    return json.dumps({"ready": auth.ready(), "subject": subject}).encode()


def me(_: bytes, __: grpc.ServicerContext) -> bytes:
    claims = current_claims()
    return json.dumps({"subject": claims.subject, "session": claims.session, "roles": sorted(claims.roles)}).encode()


def ticks(_: bytes, __: grpc.ServicerContext) -> Iterator[bytes]:
    while True:
        yield current_claims().subject.encode()
        time.sleep(0.05)


def count(messages: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
    return f"{current_claims().subject} {len(list(messages))}".encode()


def echo(messages: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    for message in messages:
        yield current_claims().subject.encode() + b" " + message


METHODS: dict[str, Any] = {
    "Open": grpc.unary_unary_rpc_method_handler(open_to_all),
    "Me": grpc.unary_unary_rpc_method_handler(me),
    "Admin": grpc.unary_unary_rpc_method_handler(me),
    "Lax": grpc.unary_unary_rpc_method_handler(me),
    "Ticks": grpc.unary_stream_rpc_method_handler(ticks),
    "Count": grpc.stream_unary_rpc_method_handler(count),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
}

if __name__ == "__main__":
    interceptor = SyncAuthixInterceptor(
        auth,
        public=["/walk.Walk/Open", "/open.Service/*"],
        roles={"/walk.Walk/Admin": ["admin"]},
        when_stale={"/walk.Walk/Lax": WhenStale.ACCEPT},
    )
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[interceptor])
    server.add_registered_method_handlers("walk.Walk", METHODS)
    server.add_registered_method_handlers("open.Service", {"Open": METHODS["Open"]})
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    ended: queue.SimpleQueue[None] = queue.SimpleQueue()
    signal.signal(signal.SIGTERM, lambda *_: ended.put(None))
    ended.get()
    server.stop(0.5).wait()
