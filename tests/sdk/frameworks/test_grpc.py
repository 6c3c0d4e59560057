"""The walk over gRPC: servers with threads and with coroutines, two processes each, and all four kinds of calls."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import pytest

from tests.programs import DEADLINE, HOST, IssuerProgram, Program, eventually, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sdk.frameworks.conftest import User

NewUser = Callable[[], "User"]
SERVICES = ["grpc_service.py", "grpc_aio_service.py"]


class Refused(NamedTuple):
    status: str
    code: str
    details: str


def refusal_of(call: Any) -> Refused:
    trailing = dict(call.trailing_metadata() or ())
    return Refused(call.code().name, trailing.get("authix-code", ""), call.details())


def end_of(stream: Any) -> Refused:
    """How it ended, after whatever came before."""
    try:
        for _ in stream:
            pass
    except grpc.RpcError as error:
        return refusal_of(error)
    raise AssertionError("it ended as if all were said")


MISSING = Refused("UNAUTHENTICATED", "token_missing", "no access token was sent")


class Worker:
    """One process of the service, and a channel to it."""

    def __init__(self, program: Program, port: int) -> None:
        self.program = program
        self.channel = grpc.insecure_channel(f"{HOST}:{port}", [("grpc.enable_http_proxy", 0)])

    def ask(self, method: str, *tokens: str, service: str = "walk.Walk") -> dict[str, Any] | Refused:
        call: Any = self.channel.unary_unary(f"/{service}/{method}")
        metadata = tuple(("authorization", f"Bearer {token}") for token in tokens)
        try:
            answer: dict[str, Any] = json.loads(call(b"", timeout=DEADLINE, metadata=metadata, wait_for_ready=True))
        except grpc.RpcError as error:
            return refusal_of(error)
        return answer

    def open(self, kind: str, method: str, token: str, *request: Any) -> Any:
        call = getattr(self.channel, kind)(f"/walk.Walk/{method}")
        return call(*request, timeout=DEADLINE, metadata=[("authorization", f"Bearer {token}")])

    def ready(self) -> Worker:
        eventually(
            lambda: self.ask("Open") == {"ready": True, "subject": None},
            lambda: f"the service is ready: {self.ask('Open')}\n{self.program.output()}",
            60,
        )
        return self


StartWorker = Callable[..., Worker]


def run(service: str, folder: Path, stack: ExitStack, **env: str) -> Worker:
    from tests.sdk.frameworks.conftest import ROOT
    from tests.sdk.frameworks.conftest import SERVICES as FOLDER

    port = free_port()
    settings = {"AUTHIX_AUDIENCE": "tests", "PYTHONPATH": str(ROOT), **env}
    program = Program(str(FOLDER / service), [str(port)], settings, folder / f"{port}.log")
    stack.callback(program.kill)
    worker = Worker(program.start(), port)
    stack.callback(worker.channel.close)
    return worker


@pytest.fixture(scope="module", params=SERVICES)
def workers(
    request: pytest.FixtureRequest, issuer: IssuerProgram, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("grpc")
        found = [run(request.param, folder, stack, AUTHIX_ISSUER=issuer.url) for _ in range(2)]
        yield [worker.ready() for worker in found]
        assert [worker.program.stop() for worker in found] == [0, 0], found[0].program.output()


@pytest.fixture
def worker(workers: list[Worker]) -> Worker:
    return workers[0]


class Requests:
    """Messages that a test sends one by one."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def send(self, message: bytes | None) -> None:
        self._messages.put(message)

    def __iter__(self) -> Iterator[bytes]:
        while (message := self._messages.get()) is not None:
            yield message


def test_a_call_without_a_token_is_refused(worker: Worker) -> None:
    assert [worker.ask(method) for method in ("Me", "Admin", "Lax")] == [MISSING] * 3
    assert worker.ask("Open") == {"ready": True, "subject": None}
    assert worker.ask("Open", service="open.Service") == {"ready": True, "subject": None}
    for kind, method, request in (
        ("unary_stream", "Ticks", b""),
        ("stream_unary", "Count", iter([b""])),
        ("stream_stream", "Echo", iter([b""])),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            list(getattr(worker.channel, kind)(f"/walk.Walk/{method}")(request, timeout=DEADLINE))
        assert refusal_of(refused.value) == MISSING


def test_what_is_no_good_token_is_refused_with_its_reason(worker: Worker, new_user: NewUser) -> None:
    token = new_user().login()
    refused = Refused("UNAUTHENTICATED", "signature_invalid", "the token's signature is wrong")
    assert worker.ask("Me", f"{token[:-4]}AAAA") == refused
    malformed = Refused("UNAUTHENTICATED", "token_malformed", "more than one Authorization header was sent")
    assert worker.ask("Me", token, token) == malformed


def test_a_good_token_is_let_through_in_all_kinds_of_calls(worker: Worker, new_user: NewUser) -> None:
    user = new_user()
    token, subject = user.login(), user.subject.encode()
    said = worker.ask("Me", token)
    assert isinstance(said, dict)
    assert (said["subject"], said["roles"]) == (user.subject, [])
    ticks = worker.open("unary_stream", "Ticks", token, b"")
    assert next(ticks) == subject
    ticks.cancel()
    assert worker.open("stream_unary", "Count", token, iter([b"1", b"2"])) == subject + b" 2"
    assert list(worker.open("stream_stream", "Echo", token, iter([b"1", b"2"]))) == [subject + b" 1", subject + b" 2"]
    assert worker.ask("Open") == {"ready": True, "subject": None}, "the claims were for those calls only"


def test_a_user_without_the_role_is_forbidden_and_one_with_it_is_not(worker: Worker, new_user: NewUser) -> None:
    user = new_user()
    forbidden = Refused("PERMISSION_DENIED", "role_missing", "the user lacks a role that this needs")
    assert worker.ask("Admin", user.login()) == forbidden
    user.grant("admin")
    said = worker.ask("Admin", user.login())
    assert isinstance(said, dict)
    assert said["roles"] == ["admin"]


def test_every_worker_refuses_a_logged_out_users_token_and_takes_the_next(
    workers: list[Worker], new_user: NewUser
) -> None:
    user, other = new_user(), new_user()
    token, others = user.login(), other.login()
    assert [isinstance(worker.ask("Me", token), dict) for worker in workers] == [True, True]
    user.logout()
    logged_out = Refused("UNAUTHENTICATED", "token_revoked", "the user logged out after this token was issued")
    for worker in workers:
        eventually(lambda worker=worker: worker.ask("Me", token) == logged_out, "the worker heard of the logout")  # type: ignore[misc] # bound as a default
    again = user.login()
    for worker in workers:
        assert isinstance(worker.ask("Me", again), dict)
        assert isinstance(worker.ask("Me", others), dict)
        assert worker.ask("Me", token) == logged_out


def test_a_logout_ends_the_users_streams_and_no_others(worker: Worker, new_user: NewUser) -> None:
    user, other = new_user(), new_user()
    token = user.login()
    requests, others_requests = Requests(), Requests()
    ticks = worker.open("unary_stream", "Ticks", token, b"")
    echo = worker.open("stream_stream", "Echo", token, iter(requests))
    others = worker.open("stream_stream", "Echo", other.login(), iter(others_requests))
    requests.send(b"hello")
    others_requests.send(b"hello")
    assert (next(ticks), next(echo)) == (user.subject.encode(), f"{user.subject} hello".encode())
    assert next(others) == f"{other.subject} hello".encode()
    user.logout()
    logged_out = Refused("UNAUTHENTICATED", "token_revoked", "the user logged out")
    assert end_of(ticks) == logged_out
    requests.send(b"anybody?")
    assert end_of(echo) == logged_out
    requests.send(None)
    others_requests.send(b"still here")
    assert next(others) == f"{other.subject} still here".encode()
    others_requests.send(None)
    assert list(others) == []


def test_a_logout_ends_a_silent_stream_too(worker: Worker, new_user: NewUser) -> None:
    user, requests = new_user(), Requests()
    echo = worker.open("stream_stream", "Echo", user.login(), iter(requests))
    requests.send(b"hello")
    next(echo)
    user.logout()
    ended = end_of(echo)
    requests.send(None)
    assert (ended.status, ended.code) in {("UNAUTHENTICATED", "token_revoked"), ("CANCELLED", "")}


def test_a_logout_ends_an_upload(worker: Worker, new_user: NewUser) -> None:
    user, requests = new_user(), Requests()
    token = user.login()
    metadata = [("authorization", f"Bearer {token}")]
    upload: Any = worker.channel.stream_unary("/walk.Walk/Count")
    counted = upload.future(iter(requests), timeout=DEADLINE, metadata=metadata)
    ticks = worker.open("unary_stream", "Ticks", token, b"")
    next(ticks)
    user.logout()
    end_of(ticks)
    requests.send(b"more")
    with pytest.raises(grpc.RpcError):
        counted.result()
    requests.send(None)
    assert refusal_of(counted).code == "token_revoked"


@pytest.mark.parametrize("service", SERVICES)
def test_it_asks_to_come_back_while_it_can_not_judge(
    service: str, issuer: IssuerProgram, new_user: NewUser, tmp_path: Path
) -> None:
    nobody = f"http://{HOST}:{free_port()}"
    with ExitStack() as stack:
        early = run(service, tmp_path, stack, AUTHIX_ISSUER=issuer.url, AUTHIX_KEYS=nobody)
        stale = run(service, tmp_path, stack, AUTHIX_ISSUER=issuer.url, AUTHIX_STALE_AFTER="2").ready()
        token = new_user().login()
        not_ready = Refused("UNAVAILABLE", "not_ready", "the issuer's keys are not yet here")
        assert early.ask("Me", token) == not_ready
        assert early.ask("Me") == MISSING
        issuer.pause()
        stack.callback(issuer.resume)
        reason = "the revocation feed is too old to rule out a logout"
        eventually(lambda: stale.ask("Me", token) == Refused("UNAVAILABLE", "feed_stale", reason), "the feed is stale")
        assert isinstance(stale.ask("Lax", token), dict)
