"""The map of a million live logouts beside a plain dict of tuples, in one run.

Each in a process of its own, with the same events. A pause is the CPU time of the longest step: as many events as a
feed takes at once, or one call that evicts. Goals: 180 MiB, a lookup 0.5 µs, 30 ms to merge, 5 ms to evict.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice

from authix.events import Revocation, UserRevoked, decode_event, encode_event
from authix.kafka_feed import AT_ONCE
from authix.revocations import RevocationMap
from benchmarks.report import machine
from tests.late_verifier import logouts, resident, subject

KINDS = ("RevocationMap", "dict of tuples")


class PlainDict:
    """What one would write first."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[int, int]] = {}

    def apply(self, event: Revocation) -> None:
        assert isinstance(event, UserRevoked)
        since_us, until = self.entries.get(event.sub, (-1, -1))
        self.entries[event.sub] = (max(event.since_us, since_us), max(event.until, until))

    def revokes(self, *, subject: str, session: None, issued_at_us: int) -> bool:  # noqa: ARG002 - the map's own signature
        entry = self.entries.get(subject)
        return entry is not None and issued_at_us <= entry[0]

    def evict(self, now: float) -> bool:
        for key in [key for key, (_, until) in self.entries.items() if until < now]:
            del self.entries[key]
        return False


def received(count: int) -> Iterator[list[Revocation]]:
    """The logouts as a feed hands them over."""
    wire = (decode_event(encode_event(event)) for event in logouts(count))
    while events := [event for event in islice(wire, AT_ONCE) if isinstance(event, UserRevoked)]:
        yield list(events)


def took(step: Callable[[], object]) -> float:
    began = time.thread_time()
    step()
    return time.thread_time() - began


def merge(entries: RevocationMap | PlainDict, events: list[Revocation]) -> None:
    for event in events:
        entries.apply(event)


def lookup(entries: RevocationMap | PlainDict, subjects: list[str]) -> float:
    """Seconds of one."""
    revokes = entries.revokes
    return took(lambda: [revokes(subject=name, session=None, issued_at_us=1) for name in subjects]) / len(subjects)


def measure(kind: str, count: int) -> None:
    gc.collect()
    before = resident()
    entries = RevocationMap() if kind == KINDS[0] else PlainDict()
    merges = [took(lambda events=events: merge(entries, events)) for events in received(count)]  # type: ignore[misc] # mypy can't infer a lambda with a default
    memory, collection = resident() - before, took(gc.collect)
    some = [subject(number) for number in range(0, count, max(count // 1000, 1))]
    few = lookup(entries, some[:100] * 1000)  # in the processor's cache, as on a machine that serves
    cold = lookup(entries, [subject(number) for number in range(7, count, max(count // 20_000, 1))])
    evictions = []
    for second in range(600, 4200, 5):
        more = True
        while more:
            began = time.thread_time()
            more = entries.evict(time.time() + second)
            evictions.append(time.thread_time() - began)
    print(
        f"  {kind:14} {memory / 2**20:5.0f} MiB   merge {sum(merges) / count * 1e9:5.0f} ns, longest of {AT_ONCE}"
        f" {max(merges) * 1e3:5.1f} ms   lookup {few * 1e9:4.0f} ns, cold {cold * 1e9:5.0f} ns"
        f"   longest eviction {max(evictions) * 1e3:5.1f} ms   garbage collection {collection * 1e3:4.1f} ms",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logouts", type=int, default=1_000_000)
    parser.add_argument("--only", choices=KINDS, help="in this process")
    options = parser.parse_args()
    if options.only:
        measure(options.only, options.logouts)
        return
    print(f"revocation_map: {machine()}; {options.logouts:,} logouts; goals: 180 MiB, 500 ns, 30 ms, eviction 5 ms")
    for kind in KINDS:
        command = [sys.executable, "-m", "benchmarks.revocation_map", "--logouts", str(options.logouts)]
        subprocess.run([*command, "--only", kind], check=True)


if __name__ == "__main__":
    main()
