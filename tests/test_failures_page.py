"""The table of failures is whole, and each of its rows names tests that are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")
ENGINES = ("MongoDB", "Redis", "Kafka", "The disk under SQLite", "The issuer", "The upstream")
FAULTS = ["down", "slow", "restarted", "full"]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


class Row(NamedTuple):
    engine: str
    cells: dict[str, str]


def rows() -> Iterator[Row]:
    for section in PAGE.split("\n## ")[1:]:
        engine = section.partition("\n")[0]
        lines = [line for line in section.splitlines() if line.startswith("|")]
        if lines:
            head, _, *rest = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
            yield from (Row(engine, dict(zip(head, cells, strict=True))) for cells in rest)


def defined_in(path: Path) -> set[str]:
    """``test_x`` and ``TestY::test_z``."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            functions = (part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}::{function.name}" for function in functions}
    return found


def test_each_engine_has_each_fault() -> None:
    found: dict[str, list[str]] = {}
    for row in rows():
        found.setdefault(row.engine, []).append(row.cells[""])
    assert len(found) == len(ENGINES)
    for engine, faults in zip(ENGINES, found.items(), strict=True):
        assert faults[0].startswith(engine)
        assert faults[1] == FAULTS


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: f"{row.engine} {row.cells['']}")
def test_no_cell_is_empty_and_each_row_names_its_tests(row: Row) -> None:
    assert [name for name, cell in row.cells.items() if not cell] == []
    assert not NAMED.sub("", row.cells["shown by"]).strip(), "nothing but tests"


def test_each_test_that_the_page_names_is_there() -> None:
    named = NAMED.findall(PAGE)
    assert [f"{file}::{name}" for file, name in named if name not in defined_in(ROOT / file)] == []
