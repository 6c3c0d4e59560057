"""An upstream that is a process: killed by -9, or hanging, while clients ask."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import StartSidecar
from tests.programs import HOST, Program, bearer, eventually, free_port
from tests.sidecar.numbered_service import PIECES

if TYPE_CHECKING:
    from tests.sidecar.conftest import Fleet

CLIENTS = 8
GONE = (ConnectionError, http.client.IncompleteRead, http.client.BadStatusLine)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Program]:
    port = str(free_port())
    program = Program(str(Path(__file__).with_name("numbered_service.py")), [port], {}, tmp_path / "service.log")
    program.start().wait_for(f"http://{HOST}:{port}/0")
    yield program
    program.kill()


def test_no_client_gets_anything_but_its_own_answer_a_code_or_a_clean_break(
    fleet: Fleet, start_sidecar: StartSidecar, service: Program
) -> None:
    port = service.command[-1]
    sidecar = start_sidecar(fleet.issuer.url, f"http://{HOST}:{port}", AUTHIX_UPSTREAM_TIMEOUT="1").ready()
    numbers, over = itertools.count(1), threading.Event()

    def ask_on(saw: Counter[str]) -> None:
        connection = http.client.HTTPConnection(HOST, sidecar.proxy_port, timeout=20)
        while not over.is_set():
            number = next(numbers)
            try:
                connection.request("GET", f"/{number}", headers=bearer(fleet.token))
                answer = connection.getresponse()
                body = answer.read()
            except GONE:
                saw["broken off"] += 1
                connection.close()
                continue
            if answer.status == 200:
                assert body == f"{number}".encode() * 50 * PIECES
                saw["whole"] += 1
            else:
                assert answer.status in {502, 503, 504}
                saw[json.loads(body)["code"]] += 1
        connection.close()

    each = [Counter[str]() for _ in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as threads:
        asking = [threads.submit(ask_on, saw) for saw in each]
        try:
            for fault in [service.kill] * 6 + [service.pause]:
                before = next(numbers)
                eventually(lambda: next(numbers) > before + 100, "requests go on")  # noqa: B023 - called at once
                time.sleep(random.uniform(0, 0.02))  # at any moment of theirs
                fault()
                code = "upstream_timeout" if fault == service.pause else "upstream_unreachable"
                met = sum(saw[code] for saw in each)
                eventually(lambda: sum(saw[code] for saw in each) > met, code)  # noqa: B023 - called at once
                service.kill()
                service.start().wait_for(f"http://{HOST}:{port}/0")
            whole = sum(saw["whole"] for saw in each)
            eventually(lambda: sum(saw["whole"] for saw in each) > whole + 100, "all is well again")
        finally:
            over.set()
        for one in asking:
            one.result()
    assert sum(saw["broken off"] for saw in each) > 0
    assert "Traceback" not in sidecar.output()
