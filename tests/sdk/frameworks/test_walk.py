"""The same walk through every framework: a real server with several workers, a real issuer, users who log out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from authix.bearer import refusal
from authix.errors import (
    AuthixError,
    FeedStale,
    NotReady,
    RoleMissing,
    SignatureInvalid,
    TokenMalformed,
    TokenMissing,
    TokenRevoked,
)
from tests.programs import DEADLINE, HOST, IssuerProgram, bearer, eventually
from tests.servers.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from tests.sdk.frameworks.conftest import Service, StartService, User

NewUser = Callable[[], "User"]
OpenSocket = Callable[[str | None], ClientConnection]
OpenEvents = Callable[[str], AbstractContextManager[Iterator[str]]]

ABOUT_REFUSALS = ("content-type", "cache-control", "www-authenticate", "retry-after")

MISSING = TokenMissing("no access token was sent")
LOGGED_OUT = TokenRevoked("the user logged out after this token was issued")


def assert_refused(answer: httpx.Response, error: AuthixError) -> None:
    """To the byte what ``authix.bearer`` says, so that it is the same in every framework."""
    expected = refusal(error)
    told = {name: answer.headers[name] for name in ABOUT_REFUSALS if name in answer.headers}
    headers = {name.lower(): value for name, value in expected.headers}
    assert (answer.status_code, told, answer.content) == (expected.status, headers, expected.body)


def test_a_request_without_a_token_is_challenged(service: Service) -> None:
    for path in ("/me", "/admin", "/lax"):
        assert_refused(service.ask(path), MISSING)
    assert_refused(service.ask("/me", headers=[("Authorization", "Basic dXNlcjpwYXNz")]), MISSING)
    assert service.ask("/open").status_code == 200


def test_what_is_no_good_token_is_refused_with_its_reason(service: Service, new_user: NewUser) -> None:
    token = new_user().login()
    spoilt = f"{token[:-4]}AAAA"
    assert_refused(service.ask("/me", spoilt), SignatureInvalid("the token's signature is wrong"))
    twice = TokenMalformed("more than one Authorization header was sent")
    assert_refused(service.ask("/me", token, headers=list(bearer(token).items())), twice)
    no_form = TokenMalformed("the Authorization header is not 'Bearer <token>'")
    assert_refused(service.ask("/me", f"{token} x"), no_form)
    assert service.ask("/me", "x.y.z").json()["code"] == "token_malformed"


def test_a_good_token_is_let_through_with_its_claims(service: Service, new_user: NewUser) -> None:
    user = new_user()
    answer = service.ask("/me", user.login())
    said = answer.json()
    assert (answer.status_code, said["subject"], said["roles"]) == (200, user.subject, [])
    assert said["session"]


def test_a_user_without_the_role_is_forbidden_and_one_with_it_is_not(service: Service, new_user: NewUser) -> None:
    user = new_user()
    assert_refused(service.ask("/admin", user.login()), RoleMissing("the user lacks a role that this needs"))
    user.grant("admin")
    answer = service.ask("/admin", user.login())
    assert (answer.status_code, answer.json()["roles"]) == (200, ["admin"])


def test_every_worker_refuses_a_logged_out_users_token_and_takes_the_next(service: Service, new_user: NewUser) -> None:
    user, other = new_user(), new_user()
    token, others = user.login(), other.login()
    service.every_worker_answers("/me", token, 200)
    user.logout()
    service.every_worker_answers("/me", token, 401, "token_revoked")
    assert_refused(service.ask("/me", token), LOGGED_OUT)
    service.every_worker_answers("/me", user.login(), 200)
    service.every_worker_answers("/me", token, 401, "token_revoked")
    service.every_worker_answers("/me", others, 200)


def test_a_socket_without_a_good_token_is_refused_at_the_handshake(open_socket: OpenSocket, new_user: NewUser) -> None:
    user = new_user()
    token = user.login()
    for sent, code in ((None, "token_missing"), (f"{token[:-4]}AAAA", "signature_invalid")):
        with pytest.raises(InvalidStatus) as refused:
            open_socket(sent)
        answer = refused.value.response
        assert (answer.status_code, json.loads(answer.body or b"")["code"]) == (401, code)
        assert answer.headers["www-authenticate"].startswith('Bearer realm="authix"')


def test_a_logout_closes_the_users_open_sockets_and_no_others(open_socket: OpenSocket, new_user: NewUser) -> None:
    user, other = new_user(), new_user()
    token = user.login()
    with open_socket(token) as first, open_socket(token) as second, open_socket(other.login()) as others:
        assert [socket.recv(DEADLINE) for socket in (first, second, others)] == [
            user.subject,
            user.subject,
            other.subject,
        ]
        user.logout()
        for socket in (first, second):
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(DEADLINE)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "token_revoked")
        others.send("still here")
        assert others.recv(DEADLINE) == "still here"
    with open_socket(user.login()) as again:
        assert again.recv(DEADLINE) == user.subject


def test_a_logout_ends_the_users_event_streams_and_no_others(
    open_events: OpenEvents, service: Service, new_user: NewUser
) -> None:
    user, other = new_user(), new_user()
    token = user.login()
    with open_events(token) as events, open_events(other.login()) as others:
        assert (next(events), next(others)) == (user.subject, other.subject)
        user.logout()
        eventually(lambda: next(events, None) is None, "it ends as a stream ends, so that an EventSource comes again")
        service.every_worker_answers("/events", token, 401, "token_revoked")
        assert next(others), "the other's goes on"


def test_it_asks_to_come_back_while_it_can_not_judge_but_a_route_may_go_on_while_the_feed_is_stale(
    start_service: StartService, issuer: IssuerProgram, new_user: NewUser
) -> None:
    token = new_user().login()
    with TcpProxy(issuer.port) as keys:
        keys.refuse()
        url = f"http://{HOST}:{keys.port}/.well-known/jwks.json"
        service = start_service(AUTHIX_ISSUER=issuer.url, AUTHIX_KEYS=url, AUTHIX_STALE_AFTER="2").listening()
        assert_refused(service.ask("/me"), MISSING)
        assert_refused(service.ask("/me", token), NotReady("the issuer's keys are not yet here"))
        keys.heal()
        service.ready()
        issuer.pause()
        try:
            service.every_worker_answers("/me", token, 503, "feed_stale")
            assert_refused(service.ask("/me", token), FeedStale("the revocation feed is too old to rule out a logout"))
            assert service.ask("/lax", token).status_code == 200
        finally:
            issuer.resume()
        eventually(lambda: service.ask("/me", token).status_code == 200, "the feed is fresh again")
