"""deploy/nginx/authix.conf before a real issuer and a real sidecar: only its ports and certificates are other ones."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.deploy.dockerfiles import ROOT
from tests.programs import HOST, IssuerProgram, SidecarProgram, bearer, eventually, free_port, login, register
from tests.servers.certificates import Authority
from tests.servers.fixtures import require
from tests.servers.proxies import Nginx

CONFIG = ROOT / "deploy" / "nginx" / "authix.conf"
ISSUER = "https://auth.example.com"
FEED_TOKEN = "t" * 44
Visit = Callable[[str], httpx.Client]


class TlsNginx(Nginx):
    def __init__(self, folder: Path, *, issuer_port: int, proxy_port: int, authority: Authority) -> None:
        super().__init__(folder, auth_port=0, service_port=0)
        self.plain_port = free_port()
        made = authority.issue("nginx")
        text = re.sub(r"listen \[::\]:.*", "", CONFIG.read_text(encoding="utf-8"))
        text = text.replace("listen 80", f"listen {HOST}:{self.plain_port}").replace(
            "listen 443", f"listen {HOST}:{self.port}"
        )
        text = text.replace("127.0.0.1:8000", f"{HOST}:{issuer_port}").replace("127.0.0.1:8001", f"{HOST}:{proxy_port}")
        self._text = re.sub(r"/etc/nginx/tls/\S+\.(pem|key)", lambda m: str(getattr(made, _KIND[m[1]])), text)

    def prepare(self) -> None:
        super().prepare()
        (self.folder / "nginx.conf").write_text(self._text, encoding="utf-8")

    def answers(self) -> bool:
        with socket.create_connection((HOST, self.plain_port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\n\r\n")
            return connection.recv(16).startswith(b"HTTP/1.1 301 ")


_KIND = {"pem": "certificate", "key": "key"}


class Echo(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        said = json.dumps({"path": self.path, "fields": {name.lower(): value for name, value in self.headers.items()}})
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())

    def do_PUT(self) -> None:
        said = str(len(self.rfile.read(int(self.headers["Content-Length"])))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with ThreadingHTTPServer((HOST, 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def visit(service: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    """``visit("auth")``: a browser at https://auth.example.com."""
    require(Nginx.missing())
    folder = tmp_path_factory.mktemp("tls")
    feed = {"AUTHIX_FEED_TOKEN": FEED_TOKEN}
    issuer = IssuerProgram(
        folder / "issuer", AUTHIX_ISSUER=ISSUER, AUTHIX_COOKIE_PROFILE="secure", AUTHIX_TRUSTED_PROXIES=HOST, **feed
    )
    own = {
        "AUTHIX_KEYS": f"{issuer.url}/.well-known/jwks.json",
        "AUTHIX_FEED": f"{issuer.url}/revocations",
        "AUTHIX_FORWARDED_PEERS": HOST,
    }
    sidecar = SidecarProgram(folder / "sidecar", ISSUER, service, **feed, **own)
    authority = Authority(folder / "authority")
    ports = {"issuer_port": issuer.port, "proxy_port": sidecar.proxy_port}
    nginx = TlsNginx(folder / "nginx", **ports, authority=authority)
    trusting = ssl.create_default_context(cafile=authority.ca)
    trusting.check_hostname = False  # the certificate is for the address

    def client(name: str) -> httpx.Client:
        def by_name(request: httpx.Request) -> None:
            request.extensions["sni_hostname"] = f"{name}.example.com"

        return httpx.Client(
            base_url=f"https://{HOST}:{nginx.port}",
            headers={"Host": f"{name}.example.com"},
            verify=trusting,
            trust_env=False,
            event_hooks={"request": [by_name]},
            timeout=10,
        )

    try:
        issuer.start()
        sidecar.start()
        nginx.start()
        issuer.ready()
        sidecar.ready()
        yield client
    finally:
        for program in (nginx, sidecar, issuer):
            program.kill()


def test_a_user_logs_in_and_out_and_the_service_hears_of_it(visit: Visit) -> None:
    with visit("auth") as auth, visit("app") as app:
        subject = register(auth, "ada@example.com")
        token = login(auth, "ada@example.com")
        made_up = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "gopher", "X-Authix-Roles": "admin"}
        answer = app.get("/orders/a%20b?c=%2F", headers=bearer(token) | made_up)
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert said["path"] == "/orders/a%20b?c=%2F"
        assert said["fields"]["x-authix-subject"] == subject
        assert said["fields"]["x-authix-roles"] == ""
        assert said["fields"]["host"] == "app.example.com"
        assert said["fields"]["x-forwarded-proto"] == "https"
        assert "6.6.6.6" not in said["fields"]["x-forwarded-for"]
        assert app.get("/orders/1").status_code == 401
        # what has a second reading is refused by the sidecar, not mended on the way there
        assert app.get("/orders//1", headers=bearer(token)).status_code == 400
        assert auth.post("/logout", headers=bearer(token)).is_success
        eventually(lambda: app.get("/orders/1", headers=bearer(token)).status_code == 401, "the logout is heard of")


def test_how_much_may_be_uploaded_is_for_the_service_to_say(visit: Visit) -> None:
    with visit("auth") as auth, visit("app") as app:
        register(auth, "uma@example.com")
        headers = bearer(login(auth, "uma@example.com"))
        answer = app.put("/orders/1", content=bytes(3 << 20), headers=headers)
        assert (answer.status_code, answer.text) == (200, str(3 << 20))


def test_the_feed_comes_through_as_it_is_sent_and_only_with_its_token(visit: Visit) -> None:
    with visit("auth") as auth:
        assert auth.get("/revocations").status_code == 401
        asked = bearer(FEED_TOKEN) | {"Accept": "text/event-stream"}
        with auth.stream("GET", "/revocations", headers=asked) as feed:
            assert feed.status_code == 200
            assert any("heartbeat" in line for line in feed.iter_lines())  # one a second, none of them held back


def test_what_is_for_this_machine_alone_is_not_shown_to_the_world(visit: Visit) -> None:
    with visit("auth") as auth:
        for path in ("/livez", "/readyz", "/metrics"):
            assert auth.get(path).status_code == 404
        assert auth.get("/.well-known/jwks.json").status_code == 200
