"""What a benchmark found, as text, JSON, Markdown and SVG.

Rule: a figure is written once, by the benchmark that measured it; the page in ``docs/`` takes what stands between its
markers from here and is never edited there.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from benchmarks.report import machine

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "dist" / "benchmarks"
PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "performance"
COLOURS = ("#2a6f97", "#e09f3e", "#9e2a2b", "#6c757d")


@dataclass(frozen=True)
class Figure:
    """What one contestant needed for a request of one kind."""

    what: str
    who: str
    micros: float
    rate: float
    p50: float
    p99: float
    engine_micros: float = 0.0

    def row(self) -> list[str]:
        engine = f"{self.engine_micros:,.0f}" if self.engine_micros else ""
        return [
            self.what,
            self.who,
            f"{self.micros:,.0f}",
            engine,
            f"{self.rate:,.0f}",
            f"{self.p50:.1f}",
            f"{self.p99:.1f}",
        ]


@dataclass(frozen=True)
class Goal:
    """A value with the bound that it should keep."""

    what: str
    value: float
    unit: str
    bound: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def row(self) -> list[str]:
        bound = f"{'≤' if self.at_most else '≥'} {_number(self.bound)} {self.unit}"
        return [self.what, f"{_number(self.value)} {self.unit}", bound, "met" if self.met else "**missed**"]


class Results:
    """Of one benchmark; printed as they come."""

    def __init__(self, name: str, conditions: str) -> None:
        self.name = name
        self.conditions = f"{machine()}; {conditions}"
        self.figures: list[Figure] = []
        self.goals: list[Goal] = []
        self.notes: list[str] = []
        self.plots: dict[str, str] = {}
        """SVG, by name."""
        print(f"{name}: {self.conditions}", flush=True)

    def figure(self, figure: Figure) -> None:
        self.figures.append(figure)
        engine = f" (+ {figure.engine_micros:,.0f} µs in engines)" if figure.engine_micros else ""
        print(
            f"  {figure.what:24} {figure.who:26} {figure.micros:9,.1f} µs CPU{engine}   {figure.rate:8,.1f}/s"
            f"   p50 {figure.p50:7.2f} ms  p99 {figure.p99:7.2f} ms",
            flush=True,
        )

    def goal(self, what: str, value: float, unit: str, bound: float, *, at_most: bool = True) -> None:
        goal = Goal(what, value, unit, bound, at_most)
        self.goals.append(goal)
        told = goal.row()
        print(f"  {told[0]}: {told[1]}   (goal {told[2]}: {'met' if goal.met else 'MISSED'})", flush=True)

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(f"  {text}", flush=True)

    def write(self, *, into_page: bool) -> None:
        OUTPUT.mkdir(parents=True, exist_ok=True)
        found = {
            "benchmark": self.name,
            "conditions": self.conditions,
            "taken": dt.datetime.now(dt.UTC).date().isoformat(),
            "figures": [asdict(figure) for figure in self.figures],
            "goals": [asdict(goal) | {"met": goal.met} for goal in self.goals],
            "notes": self.notes,
        }
        written = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        (OUTPUT / f"{self.name}.json").write_text(written, encoding="utf-8")
        (OUTPUT / f"{self.name}.md").write_text(self.markdown(), encoding="utf-8")
        for plot, svg in self.plots.items():
            for folder in (OUTPUT, PLOTS) if into_page else (OUTPUT,):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{plot}.svg").write_text(svg, encoding="utf-8")
        print(f"  written to {OUTPUT.relative_to(ROOT)}/{self.name}.json and .md")
        if into_page:
            PLOTS.mkdir(exist_ok=True)
            (PLOTS / f"{self.name}.json").write_text(written, encoding="utf-8")
            begin, end = f"<!-- {self.name}: begin -->", f"<!-- {self.name}: end -->"
            between = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
            page, count = between.subn(
                lambda _: f"{begin}\n\n{self.markdown()}\n{end}", PAGE.read_text(encoding="utf-8")
            )
            assert count == 1, f"{PAGE} has no place for {self.name}"
            PAGE.write_text(page, encoding="utf-8")

    def markdown(self) -> str:
        parts = [f"Taken on {self.conditions}."]
        if self.goals:
            parts.append(table(("what", "found", "goal", ""), [goal.row() for goal in self.goals]))
        if self.figures:
            names = ("what", "who", "CPU µs a request", "in engines", "a second", "p50 ms", "p99 ms")
            parts.append(table(names, [figure.row() for figure in self.figures]))
        parts += self.notes
        return "\n\n".join(parts) + "\n"


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *rows))


def bars(title: str, unit: str, groups: dict[str, dict[str, float]], *, logarithmic: bool = False) -> str:
    """A bar chart as SVG: one group for each key, one bar for each of its entries, all on one scale."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    colours = dict(zip(names, COLOURS, strict=False))
    most = max(value for group in groups.values() for value in group.values())
    left, wide, high, y = 240, 400, 18, 62 + 18 * (len(names) > 3)
    decades = math.ceil(math.log10(max(most, 10)))
    drawn: list[str] = []
    for place, name in enumerate(names):
        x = left + place % 3 * 190
        drawn.append(f'<rect x="{x}" y="{34 + place // 3 * 18}" width="10" height="10" fill="{colours[name]}"/>')
        drawn.append(f'<text x="{x + 15}" y="{43 + place // 3 * 18}">{escape(name)}</text>')
    for what, group in groups.items():
        drawn.append(f'<text x="{left - 8}" y="{y + high * len(group) / 2 + 4:.0f}" class="end">{escape(what)}</text>')
        for name, value in group.items():
            share = math.log10(max(value, 1)) / decades if logarithmic else value / most
            length = max(share * wide, 1)
            drawn.append(
                f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{high - 3}" fill="{colours[name]}"/>'
                f'<text x="{left + length + 5:.1f}" y="{y + 12}">{_number(value)}</text>'
            )
            y += high
        y += 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {y}" role="img" aria-label="{escape(title)}">'
        "<style>text{font:12px sans-serif;fill:#333}.end{text-anchor:end}.title{font:bold 14px sans-serif}</style>"
        f'<rect width="720" height="{y}" fill="#fff"/>'
        f'<text x="10" y="20" class="title">{escape(title)} ({escape(unit)}{", logarithmic" * logarithmic})</text>'
        + "".join(drawn)
        + "</svg>\n"
    )


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.005 else "0"
