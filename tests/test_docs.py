"""The documentation says what the code does."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from authix.events import LOG_WINDOW, Event, Heartbeat, SessionRevoked, UserRevoked, encode_event, keep_until
from authix.revocations import MAX_ENTRIES
from authix_issuer.adapters.kafka_topic import PARTITIONS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
RENDERERS = sorted(DOCS.glob("render_*.py"))

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.mark.parametrize("renderer", RENDERERS, ids=lambda renderer: renderer.stem.removeprefix("render_"))
def test_a_rendered_page_is_what_the_code_says(renderer: Path) -> None:
    page = runpy.run_path(str(renderer))
    assert page["PAGE"].read_text(encoding="utf-8") == page["render"](), "run `make docs`"


@each_page
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@each_page
def test_every_link_to_the_outside_has_the_form_of_one(page: Path) -> None:
    links = re.findall(r"\]\((https?:[^)]*)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not re.fullmatch(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[^\s<>]*)?", link)] == []


@each_page
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(
        r"`((?:tests|examples|benchmarks|docs|deploy)/[\w./-]+\.\w+)(?:::\w+)?`", page.read_text(encoding="utf-8")
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


@each_page
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`(tests/[\w./-]+\.py)::(\w+)`", page.read_text(encoding="utf-8"))
    assert [name for file, name in named if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")] == []


@each_page
def test_every_benchmark_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`benchmarks\.(\w+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / "benchmarks" / f"{name}.py").exists()] == []


@each_page
def test_every_make_target_that_a_page_names_is_there(page: Path) -> None:
    targets = set(re.findall(r"`make ([a-z-]+)`", page.read_text(encoding="utf-8")))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_each_promise_names_tests_that_hold_it() -> None:
    promises = {page: page.read_text(encoding="utf-8") for page in (DOCS / "promises").iterdir()}
    assert len(promises) == 6
    assert [page.name for page, text in promises.items() if text.count("* `tests/") < 3] == []
    listed = (DOCS / "promises.md").read_text(encoding="utf-8")
    assert [page.name for page in promises if f"(promises/{page.name})" not in listed] == []


def test_every_reason_of_a_refused_input_is_explained() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "issuer" / "src").rglob("*.py"))
    codes = set(re.findall(r'\bReason\(\s*"\w+",\s*"(\w+)"', source))
    assert len(codes) > 10
    # those of every field are told together
    assert [code for code in codes if not code.endswith(("_missing", "_malformed")) and f"`{code}`" not in page] == []


def test_the_site_is_built_without_a_warning_and_asks_nobody_else(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    # no proxy answers there: whatever is fetched fails. Without its output (--quiet) mkdocs counts no warnings
    env = os.environ | {
        "NO_MKDOCS_2_WARNING": "1",
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(build, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    fetched = re.compile(r"""<(?:script|img|iframe)[^>]+src=["']?https?:|<link[^>]+rel=["']?stylesheet[^>]+https?:""")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    assert [page.name for page in pages if fetched.search(page.read_text(encoding="utf-8"))] == []


AT_US = 1_800_000_000_123_456
ID = "9f86d081884c7d659f86d081884c7d65"


def in_kafka(event: Event, key: bytes | None) -> int:
    """The bytes of a batch that holds this alone."""
    batch = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=1,
        producer_epoch=0,
        base_sequence=0,
        batch_size=16_384,
    )
    batch.append(0, timestamp=AT_US // 1000, key=key, value=encode_event(event), headers=[])
    return len(batch.build())


def test_the_capacity_page_reckons_with_what_is_sent_and_kept() -> None:
    page = (DOCS / "capacity.md").read_text(encoding="utf-8")
    user = UserRevoked(sub=ID, since_us=AT_US, until=keep_until(AT_US))
    session = SessionRevoked(sub=ID, sid=ID, since_us=AT_US, until=keep_until(AT_US))
    beat = Heartbeat(at_us=AT_US, complete_until_us=AT_US)
    key = ID.encode("ascii")
    in_page = [
        f"| b | {in_kafka(user, key)} bytes a user's logout in Kafka, {in_kafka(session, key)} a session's |",
        f"the event ({len(encode_event(user))}, {len(encode_event(session))})",
        f"| H | {PARTITIONS * in_kafka(beat, None)} bytes/s: {PARTITIONS} partitions, {in_kafka(beat, None)} bytes",
        f"the heartbeat ({len(encode_event(beat))})",
        f"| W | {LOG_WINDOW} s",
        f"{MAX_ENTRIES:,} entries (`AUTHIX_MAX_REVOCATIONS`), which is {MAX_ENTRIES // LOG_WINDOW:,} revocations",
    ]
    assert [part for part in in_page if part not in page] == []
