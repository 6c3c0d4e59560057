"""docs/security.md: what it names exists, every row has a status, no requirement is left out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
STATUSES = {"met", "not met", "not applicable"}
ASVS = {"6": (3, 12, 8, 6, 8, 4, 2, 4), "7": (3, 4, 2, 5, 3, 2), "9": (3, 4)}
"""How many requirements each section of a chapter of ASVS 5.0.0 has."""
_REFERENCE = re.compile(r"`((?:docs|issuer|sdk|sidecar|tests)/[\w./-]+(?:::[\w.]+)?)`")
_ASVS = re.compile(r"v5\.0\.0-((\d+)\.(\d+))\.(\d+)(?: to \1\.(\d+))?:")


class Row(NamedTuple):
    requirement: str
    status: str
    where: str
    """Or the reason."""
    last: str
    """The test, or what an operator can do."""


def rows() -> Iterator[Row]:
    """Those of every table of requirements."""
    for table in re.findall(r"^\| Requirement \|.*\n\|[-|]+\n((?:\|.*\n)*)", PAGE, re.MULTILINE):
        for line in table.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == len(Row._fields), line
            yield Row(*cells)


ROWS = list(rows())
REFERENCES = set(_REFERENCE.findall(PAGE))


@cache
def names_in(path: Path) -> frozenset[str]:
    """The functions and classes of a module, and its classes' methods by ``Class.method``."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (inner for inner in node.body if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef))
            found.update(f"{node.name}.{method.name}" for method in methods)
    return frozenset(found)


def is_there(reference: str) -> bool:
    path, _, name = reference.partition("::")
    file = ROOT / path
    if not file.is_file():
        return False
    return not name or any(known == name or known.endswith(f".{name}") for known in names_in(file))


def references_in(cell: str, *, tests: bool) -> list[str]:
    return [found for found in _REFERENCE.findall(cell) if found.startswith("tests/") is tests]


def test_every_table_and_reference_is_found() -> None:
    assert len(ROWS) == len(re.findall(r"^\| .* \| (?:met|not met|not applicable) \| ", PAGE, re.MULTILINE)) > 100
    assert len(REFERENCES) == len(set(re.findall(r"`([^`\n]+/[^`\n]+\.(?:py|md|lua)[^`\n]*)`", PAGE)))


def test_what_the_page_names_exists() -> None:
    assert [reference for reference in sorted(REFERENCES) if not is_there(reference)] == []


def test_every_requirement_has_a_status_and_what_goes_with_it() -> None:
    for row in ROWS:
        assert row.status in STATUSES, row
        assert row.where, row
        if row.status == "met":
            tests = references_in(row.last, tests=True)
            assert row.last.startswith("none: ") or (tests and all("::test_" in test for test in tests)), row
        if row.status == "not met":
            assert row.last, row


def test_each_requirement_stands_once() -> None:
    names = [row.requirement for row in ROWS]
    assert sorted(set(names)) == sorted(names)


def test_no_requirement_of_the_asvs_is_left_out() -> None:
    found = []
    for row in ROWS:
        if match := _ASVS.match(row.requirement):
            _, chapter, section, first, last = match.groups()
            found += [(chapter, int(section), number) for number in range(int(first), int(last or first) + 1)]
    assert sorted(found) == [
        (chapter, section, number)
        for chapter, counts in ASVS.items()
        for section, count in enumerate(counts, 1)
        for number in range(1, count + 1)
    ]
