"""The auth port: forward auth, probes and metrics."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.programs import bearer, eventually, free_port

if TYPE_CHECKING:
    from tests.conftest import StartSidecar
    from tests.sidecar.conftest import Answer, Fleet, Visit


def ask(fleet: Fleet, path: str, *lines: str, method: str = "GET", port: int = 0) -> Answer:
    request = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *lines, "", ""]).encode()
    return fleet.call(request, port or fleet.sidecar.auth_port)


class TestVerify:
    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
    def test_says_who_a_good_token_is_for_whatever_the_method(self, fleet: Fleet, method: str) -> None:
        _, user_id, token = fleet.new_user()
        answer = ask(fleet, "/verify", f"Authorization: Bearer {token}", method=method)
        assert (answer.status, answer.body) == (200, b"")
        assert answer.values("x-authix-subject") == [user_id]
        assert len(answer.values("x-authix-session")[0]) > 0
        assert answer.values("x-authix-roles") == [""]
        assert answer.values("cache-control") == ["no-store"]

    @pytest.mark.parametrize(
        ("lines", "code", "challenge"),
        [
            ([], "token_missing", 'Bearer realm="authix"'),
            (["Authorization: Basic eA=="], "token_missing", 'Bearer realm="authix"'),
            (["Authorization: Bearer a.b.c"], "token_malformed", 'error="invalid_token"'),
            (["Authorization: Bearer a", "Authorization: Bearer a"], "token_malformed", 'error="invalid_token"'),
            (["X-Authix-Subject: admin"], "token_missing", 'Bearer realm="authix"'),
        ],
    )
    def test_challenges_whoever_has_none(self, fleet: Fleet, lines: list[str], code: str, challenge: str) -> None:
        answer = ask(fleet, "/verify?a=b", *lines)
        assert (answer.status, answer.code) == (401, code)
        assert challenge in answer.values("www-authenticate")[0]
        assert answer.values("x-authix-subject") == []

    def test_drops_a_body_and_answers_the_next(self, fleet: Fleet) -> None:
        wire = fleet.dial(fleet.sidecar.auth_port)
        for _ in range(3):
            wire.send(fleet.get("/verify", "Content-Length: 5", method="POST") + b"hello")
            assert wire.answer().status == 200

    def test_refuses_a_logged_out_users_token_as_the_proxy_does(self, fleet: Fleet) -> None:
        client, _, token = fleet.new_user()
        proxy, auth_port = fleet.dial(), fleet.dial(fleet.sidecar.auth_port)
        assert proxy.send(fleet.get("/", token=token)).answer().status == 200
        assert auth_port.send(fleet.get("/verify", token=token)).answer().status == 200
        assert client.post("/logout", headers=bearer(token)).status_code == 204
        fleet.until_refused(token)
        for wire, path in ((proxy, "/"), (auth_port, "/verify")):
            answer = wire.send(fleet.get(path, token=token)).answer()
            assert (answer.status, answer.code) == (401, "token_revoked")
        assert fleet.call(fleet.get("/")).status == 200

    def test_is_as_strict_as_the_proxy(self, fleet: Fleet) -> None:
        wire = fleet.dial(fleet.sidecar.auth_port)
        wire.send(fleet.get("/verify", "Content-Length: 0", "Transfer-Encoding: chunked"))
        assert wire.rest().startswith(b"HTTP/1.1 400 ")


class TestProbes:
    def test_tell_alive_and_ready(self, fleet: Fleet) -> None:
        for path, status in (("/livez", "alive"), ("/readyz", "ready")):
            answer = ask(fleet, path)
            assert (answer.status, json.loads(answer.body)["status"]) == (200, status)
            head = ask(fleet, path, method="HEAD")
            assert (head.status, head.body) == (200, b"")

    def test_a_sidecar_without_its_issuer_is_alive_and_says_why_it_is_not_ready(
        self, fleet: Fleet, start_sidecar: StartSidecar
    ) -> None:
        sidecar = start_sidecar(f"http://127.0.0.1:{free_port()}", fleet.upstream.url)
        sidecar.wait_for(f"{sidecar.auth_url}/livez")
        ready = ask(fleet, "/readyz", port=sidecar.auth_port)
        assert (ready.status, ready.code) == (503, "not_ready")
        told = json.loads(ready.body)
        assert told["reasons"] == ["keys_missing", "feed_replaying"]
        assert told["feeds"] == [{"kind": "http", "followed": True, "stale": False, "age": None}]
        assert told["degraded"] == []
        for port, path in ((sidecar.proxy_port, "/"), (sidecar.auth_port, "/verify")):
            answer = fleet.call(fleet.get(path), port)
            assert answer.status in {401, 503}  # of another issuer, or not to be judged yet
        fleet.settle()
        assert fleet.upstream.requests == []

    def test_ready_tells_which_feed_is_followed_and_how_old_its_knowledge_is(self, fleet: Fleet) -> None:
        told = json.loads(ask(fleet, "/readyz").body)
        (feed,) = told["feeds"]
        assert 0 <= feed.pop("age") < 15
        assert feed == {"kind": "http", "followed": True, "stale": False}
        assert told["degraded"] == []

    @pytest.mark.parametrize("path", ["/", "/verifyx", "/Verify", "/metrics/x", "/revocations/1"])
    def test_other_paths_are_not_there(self, fleet: Fleet, path: str) -> None:
        answer = ask(fleet, path)
        assert (answer.status, answer.code) == (404, "not_found")

    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
    def test_are_only_read(self, fleet: Fleet, path: str) -> None:
        answer = ask(fleet, path, method="POST")
        assert (answer.status, answer.code, answer.values("allow")) == (405, "method_not_allowed", ["GET, HEAD"])


class TestMetrics:
    def read(self, fleet: Fleet) -> dict[str, float]:
        answer = ask(fleet, "/metrics")
        assert answer.status == 200
        return {
            sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
            for family in text_string_to_metric_families(answer.body.decode())
            for sample in family.samples
        }

    def test_count_what_was_decided_and_answered(self, fleet: Fleet) -> None:
        before = self.read(fleet)
        fleet.upstream.answer = lambda request: fleet.upstream.saying() if request.method == "GET" else b"no HTTP"
        fleet.call(fleet.get("/"))
        fleet.call(fleet.get("/", token="a.b.c"))
        fleet.call(fleet.get("//"))
        fleet.call(fleet.get("/", method="POST"))
        grown = {name: value - before.get(name, 0) for name, value in self.read(fleet).items()}
        assert grown["authix_sidecar_decisions_total allowed"] == 2
        assert grown["authix_sidecar_decisions_total token_malformed"] == 1
        assert grown["authix_sidecar_decisions_total path_not_canonical"] == 1
        assert grown["authix_sidecar_upstream_errors_total upstream_broken"] == 1
        assert grown["authix_sidecar_requests_total proxy 2xx"] == 1
        assert grown["authix_sidecar_requests_total proxy 4xx"] == 2
        assert grown["authix_sidecar_requests_total proxy 5xx"] == 1

    def test_show_the_state_of_the_verifier_and_of_the_connections(self, fleet: Fleet) -> None:
        client, _, token = fleet.new_user()
        before = self.read(fleet)
        client.post("/logout", headers=bearer(token))
        fleet.until_refused(token)
        wires = [fleet.dial() for _ in range(3)]
        for wire in wires:
            assert wire.send(fleet.get("/")).answer().status == 200
        now = self.read(fleet)
        assert now["authix_revocations"] == before["authix_revocations"] + 1
        assert now["authix_keys"] == 2  # the one that signs, and the next one
        assert now["authix_ready"] == 1
        assert 0 <= now["authix_feed_age_seconds"] < 15
        assert 0 < now["authix_feed_replay_seconds"] < 15
        assert 0 <= now["authix_keys_age_seconds"] < 300
        # of the new token, however often it was shown
        assert now["authix_signatures_total"] - before["authix_signatures_total"] <= 1
        assert (now["authix_feed_followed http 1"], now["authix_feed_stale http 1"]) == (1, 0)
        assert 0 <= now["authix_followed_feed_age_seconds http 1"] < 15
        assert now["authix_sidecar_connections proxy"] >= 3
        assert now["authix_sidecar_connections upstream"] >= 1
        eventually(lambda: self.read(fleet)["authix_sidecar_streams"] == 0, "streams are counted down")

    def test_tell_how_long_until_an_answer_began_and_not_until_it_ended(self, fleet: Fleet) -> None:
        held = 1.0

        def late(visit: Visit) -> None:
            time.sleep(0.06)
            visit.send(fleet.upstream.saying())

        def slow(visit: Visit) -> None:
            visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
            time.sleep(held)
            visit.send(b"x")

        def play(visit: Visit) -> None:
            while (request := visit.request()) is not None:
                (late if request.target == "/late" else slow)(visit)

        fleet.upstream.script = play
        name = "authix_sidecar_request_seconds"
        tells = []
        for target in ("/late", "/slow"):
            before = self.read(fleet)
            assert fleet.call(fleet.get(target)).status == 200
            grown = {key: value - before[key] for key, value in self.read(fleet).items() if key.startswith(name)}
            assert grown[f"{name}_count proxy"] == grown[f"{name}_bucket +Inf proxy"] == 1
            assert grown[f"{name}_count auth"] == 1  # who asked before
            tells.append(grown)
        first, second = tells
        assert (first[f"{name}_bucket 0.05 proxy"], first[f"{name}_sum proxy"] > 0.06) == (0, True)
        assert second[f"{name}_sum proxy"] < held

    def test_tell_how_many_tokens_were_known_of_those_whose_signature_mattered(self, fleet: Fleet) -> None:
        _, _, token = fleet.new_user()
        before = self.read(fleet)
        for request in (fleet.get(token=token), fleet.get(token="a.b.c"), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
            for _ in range(3):
                fleet.call(request)
        now = self.read(fleet)
        for name, grown in (("authix_signatures_total", 1), ("authix_tokens_known_total", 2)):
            assert now[name] - before[name] == grown

    def test_name_no_user(self, fleet: Fleet) -> None:
        _, user_id, token = fleet.new_user()
        fleet.call(fleet.get("/private-path", token=token))
        text = ask(fleet, "/metrics").body.decode()
        for secret in (user_id, token, "private-path"):
            assert secret not in text
