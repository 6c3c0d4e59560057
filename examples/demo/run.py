"""Run everything until Ctrl-C: issuer, sidecar and demo service, on the embedded default or (``--scale``) on engines.

Rule: one supervisor. Whatever ends it (Ctrl-C, SIGTERM, a closed terminal, one program's end), it leaves no process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import httpx

HERE = Path(__file__).parent
READY_WITHIN = 60.0
STOP_WITHIN = 15.0
COLOURS = {"issuer": 36, "sidecar": 35, "service": 33}


class Extra(NamedTuple):
    """Settings of the issuer; and of the sidecar and the service, given the issuer's URL."""

    issuing: Mapping[str, str] = {}
    verifying: Callable[[str], Mapping[str, str]] = lambda _: {}
    settings_dir: Path | None = None
    """Where the issuer's settings are laid down too, for its other commands."""
    hint: str = ""


class Supervisor:
    """``extra`` are settings beside the usual."""

    def __init__(self, base_port: int, data_dir: str, extra: Extra) -> None:
        issuer, proxy, auth, service = (f"http://127.0.0.1:{base_port + n}" for n in range(4))
        self.issuer, self.proxy, self.auth, self.service = issuer, proxy, auth, service
        shared = {"AUTHIX_ISSUER": issuer, "AUTHIX_AUDIENCE": "demo"}
        self.programs: dict[str, tuple[list[str], Mapping[str, str], str]] = {
            "issuer": (
                ["-m", "authix_issuer", "serve"],
                shared
                | {
                    "AUTHIX_PORT": str(base_port),
                    "AUTHIX_DATA_DIR": data_dir,
                    # plain http on this machine; in production this stays `secure`
                    "AUTHIX_COOKIE_PROFILE": "development",
                    **extra.issuing,
                },
                f"{issuer}/readyz",
            ),
            "service": (
                [str(HERE / "service.py")],
                shared | {"DEMO_PORT": str(base_port + 3), **extra.verifying(issuer)},
                f"{service}/readyz",
            ),
            "sidecar": (
                ["-m", "authix_sidecar", "serve"],
                shared
                | {
                    "AUTHIX_UPSTREAM": service,
                    "AUTHIX_PROXY_PORT": str(base_port + 1),
                    "AUTHIX_AUTH_PORT": str(base_port + 2),
                    **extra.verifying(issuer),
                },
                f"{auth}/readyz",
            ),
        }
        self._hint = extra.hint
        if extra.settings_dir is not None:
            for name, value in self.programs["issuer"][1].items():
                (extra.settings_dir / name).write_text(value, encoding="utf-8")
        self.running: dict[str, asyncio.subprocess.Process] = {}
        self.stop = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop.set)
        watcher = asyncio.create_task(self._watch_parent())
        pipes: list[asyncio.Task[None]] = []
        try:
            for name, (arguments, settings, probe) in self.programs.items():
                pipes.append(await self._start(name, arguments, settings))
                if not await self._ready(name, probe):
                    break
            else:
                self._explain()
            ended = [asyncio.create_task(process.wait()) for process in self.running.values()]
            stopping = asyncio.create_task(self.stop.wait())
            await asyncio.wait([*ended, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            watcher.cancel()
            await self._stop_all()
            await asyncio.gather(*pipes)
        return 0 if self.stop.is_set() else 1

    async def _start(self, name: str, arguments: list[str], settings: Mapping[str, str]) -> asyncio.Task[None]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AUTHIX_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            env={**inherited, "PYTHONUNBUFFERED": "1", **settings},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the supervisor, which ends them in order
        )
        self.running[name] = process
        return asyncio.create_task(self._show(name, process))

    async def _show(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        head = f"{name:8}| "
        if sys.stdout.isatty():
            head = f"\x1b[{COLOURS[name]}m{head}\x1b[0m"
        async for line in process.stdout:
            print(head + line.decode(errors="replace").rstrip(), flush=True)

    async def _ready(self, name: str, probe: str) -> bool:
        """Wait until the probe says ready; False when the program or the supervisor ended before."""
        end = asyncio.get_running_loop().time() + READY_WITHIN
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            while not self.stop.is_set() and self.running[name].returncode is None:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(probe)).status_code == httpx.codes.OK and not self.stop.is_set():
                        return True
                if asyncio.get_running_loop().time() > end:
                    print(f"{name} was not ready within {READY_WITHIN:.0f} s; its log above says why.", flush=True)
                    return False
                await asyncio.sleep(0.05)
        return False

    def _explain(self) -> None:
        issuer, proxy, service = self.issuer, self.proxy, self.service
        json_type = "-H 'Content-Type: application/json'"
        credentials = """-d '{"email": "ada@example.com", "password": "correct horse battery staple"}'"""
        print(
            f"""
Authix runs: issuer {issuer} (API page {issuer}/docs), sidecar {proxy} in front of the demo service {service}.
Try it, line by line; or let `make demo` walk through it in a second terminal:

  curl -i {issuer}/register {json_type} {credentials}
  TOKEN=$(curl -s -c jar {issuer}/login {json_type} {credentials} \\
    | sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/')
  curl -i {proxy}/hello -H "Authorization: Bearer $TOKEN"      # through the sidecar: 200
  curl -i {service}/direct -H "Authorization: Bearer $TOKEN"     # the SDK's decorator: 200
  curl -i -b jar -c jar -X POST {issuer}/access_token          # new tokens for the refresh cookie
  curl -i -b jar -c jar -X POST {issuer}/logout                # 204
  curl -i {proxy}/hello -H "Authorization: Bearer $TOKEN"      # 401 token_revoked
{self._hint}
Ctrl-C stops everything.
""",
            flush=True,
        )

    async def _watch_parent(self) -> None:
        """Stop when whoever started this is gone (a killed `make` or terminal)."""
        parent = os.getppid()
        while os.getppid() == parent:
            await asyncio.sleep(1)
        self.stop.set()

    async def _stop_all(self) -> None:
        for process in reversed(self.running.values()):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        try:
            async with asyncio.timeout(STOP_WITHIN):
                await asyncio.gather(*(process.wait() for process in self.running.values()))
        except TimeoutError:
            for name, process in self.running.items():
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                    print(f"{name} did not stop within {STOP_WITHIN:.0f} s and was killed.", flush=True)


@contextlib.contextmanager
def engines() -> Iterator[Extra]:
    """A MongoDB, a Redis and a Kafka of this run alone, on free ports; what they keep goes with them."""
    sys.path.insert(0, str(HERE.parents[1]))
    from tests.servers.kafka import KafkaServer  # noqa: PLC0415 - the checkout's, needed for this alone
    from tests.servers.mongodb import MongoServer  # noqa: PLC0415 - as above
    from tests.servers.redis import RedisServer  # noqa: PLC0415 - as above

    for kind in (MongoServer, RedisServer, KafkaServer):
        if reason := kind.missing():
            sys.exit(reason)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="authix-engines-")))
        mongodb = stack.enter_context(MongoServer(folder / "mongodb"))
        redis = stack.enter_context(RedisServer(folder / "redis"))
        kafka = stack.enter_context(KafkaServer(folder / "kafka"))
        print(f"MongoDB {mongodb.url}, Redis {redis.url}, Kafka {kafka.bootstrap}", flush=True)
        issuing = {
            "AUTHIX_USERS_URL": f"{mongodb.url}/authix",
            "AUTHIX_SESSIONS_URL": redis.url,
            "AUTHIX_KAFKA": kafka.bootstrap,
            "AUTHIX_SECRET": secrets.token_urlsafe(32),
            "AUTHIX_WORKERS": "2",
            "AUTHIX_HASH_THREADS": str(max(2, os.cpu_count() or 1)),
        }
        feed = f"kafka://{kafka.bootstrap}/authix.logout"
        settings_dir = folder / "settings"
        settings_dir.mkdir()
        redis_pid = redis.process.pid if redis.process else ""
        command = f"AUTHIX_SETTINGS_DIR={settings_dir} {Path(sys.executable).with_name('authix-issuer')}"
        hint = f"""
Be its operator, in a second terminal: break Redis, read what is said of it, mend it.

  {command} config   # what it runs with, and where that was set
  {command} doctor   # what is wrong with it
  kill -STOP {redis_pid}   # Redis hangs; ask the doctor again
  kill -CONT {redis_pid}
"""
        yield Extra(issuing, lambda issuer: {"AUTHIX_FEED": f"{feed},{issuer}/revocations"}, settings_dir, hint)


def main() -> int:
    parser = argparse.ArgumentParser(description="Issuer, sidecar and demo service on this machine, until Ctrl-C.")
    parser.add_argument("--base-port", type=int, default=8000, help="issuer; the next three are the others'")
    parser.add_argument("--data-dir", default=".data", help="where users and sessions are kept")
    parser.add_argument("--scale", action="store_true", help="on MongoDB, Redis and Kafka, with two issuer workers")
    options = parser.parse_args()
    for port in range(options.base_port, options.base_port + 4):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                print(f"The port {port} is taken: stop what listens there, or choose others with --base-port.")
                return 1

    async def supervise(extra: Extra) -> int:
        return await Supervisor(options.base_port, options.data_dir, extra).run()

    if not options.scale:
        return asyncio.run(supervise(Extra()))
    with engines() as extra:
        return asyncio.run(supervise(extra))


if __name__ == "__main__":
    sys.exit(main())
