"""Renders docs/events.md from the events' declarations and the golden files: ``make docs``. A test holds the page."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from authix import events
from authix.kafka_feed import CLOCK_SLACK

PAGE = Path(__file__).parent / "events.md"
WIRE = Path(__file__).parents[1] / "tests" / "wire"

HEAD = f"""# Events: the logout topic and the feed

<!-- Written by docs/render_events.py (`make docs`). -->

What verifiers are told, by whichever way: the Kafka topic `authix.logout`, the issuer's `/revocations`, and the feed that
a sidecar passes on. One JSON object an event. Each file named here is in `tests/wire`, and `tests/wire/test_wire.py` holds
every release to it, byte by byte: what it writes, and what it must be able to read.

**What may change.** A release may add optional fields and new types, and nothing else. Readers pass over fields and types
that they do not know. A known type that can't be read is an error and never passed over, since that would lose a logout:
the verifier says so in its log and becomes stale.

Moments that end in `_us` are microseconds since 1970 on the session store's one clock; compare them with a token's
`iat_us` and with each other, never with a wall clock. `until` is in seconds since 1970: from then on the event may be
forgotten, because every token that it concerns is dead. It lies {events.LOG_WINDOW} s after the event: the longest
life of an access token ({events.MAX_TOKEN_LIFE} s), the largest leeway ({events.MAX_LEEWAY} s) and a margin ({events.MARGIN} s).
"""
KINDS: tuple[tuple[type[msgspec.Struct], str, tuple[str, ...]], ...] = (
    (events.UserRevoked, "A user", ("event-user.json",)),
    (events.SessionRevoked, "A session", ("event-session.json",)),
    (events.KeyRevoked, "A signing key", ("event-key.json", "event-key-dated.json")),
    (events.Heartbeat, "The heartbeat", ("event-heartbeat.json",)),
)
MEANING = {
    "type": "the kind",
    "v": f"`{events.VERSION}`, the version of this form",
    "sub": "the user's id, as in the token's `sub`",
    "sid": "the session's id, as in the token's `sid`",
    "kid": "the key's id, as in the token's header",
    "since_us": "the moment of the logout: tokens with `iat_us` up to it are refused",
    "key.since_us": "where it stands among the revocations; every token of the key is refused",
    "until": "the second from which on it may be forgotten",
    "at_us": "the moment at which it was sent",
    "complete_until_us": "every revocation up to this moment stands before this heartbeat",
}
FOLLOWING = f"""
## In Kafka

| | |
|---|---|
| topic | `authix.logout` (`AUTHIX_TOPIC`), 6 partitions, `cleanup.policy=delete`, two hours, `LogAppendTime` |
| key of a record | `sub`, or `kid` where a key is revoked; a heartbeat has none and goes to every partition |
| value | the event |
| order | within a subject, that of the moments; across subjects none is needed |
| twice | may happen; a reader takes the greater `since_us` |

A reader uses no consumer group. It reads every partition from {events.LOG_WINDOW} s ago (and {CLOCK_SLACK} s more, for clocks
that are off), and is caught up once each partition has brought a heartbeat after what was there when it began. Only the
smallest watermark of the partitions counts. [At scale](scale.md#the-logout-topic-kafka) says what else the topic must be.

## Over HTTP

`GET /revocations` with `Accept: text/event-stream` is endless: `id:` is the cursor, `data:` the event. A reader that comes
again sends the last id as `Last-Event-ID`; without one, or with one that is not known any more, it gets all live
revocations first. It is caught up with the first heartbeat.

```
{{feed}}
```

Without that `Accept` it is a snapshot and the cursor from which the stream goes on:

```json
{{snapshot}}
```

It needs `Authorization: Bearer` and `AUTHIX_FEED_TOKEN`. Only an issuer whose `AUTHIX_ISSUER` names this machine gives it
without a token, to whoever asks this machine by such a name and through no proxy.

## What a reader must be able to read

`future-event.json` and `future-event-type.json` are what a later release might write:

```json
{{future}}
```

The first is a user's logout with fields that are passed over; the second is passed over as a whole.
"""


def golden(name: str) -> str:
    return (WIRE / name).read_text(encoding="utf-8").rstrip("\n")


def render() -> str:
    future = "\n".join(golden(name) for name in ("future-event.json", "future-event-type.json"))
    filled = {"feed": golden("feed.sse"), "snapshot": golden("snapshot.json"), "future": future}
    following = re.sub(r"\{(\w+)\}", lambda match: filled[match[1]], FOLLOWING)
    return "\n".join([HEAD, *_kinds()]) + following


def _kinds() -> Iterator[str]:
    for kind, title, files in KINDS:
        meaning = " ".join((kind.__doc__ or "").replace("``", "`").split())
        yield f"## {title}\n\n{meaning}\n\n| field | |\n|---|---|"
        tag = kind.__struct_config__.tag
        yield f"| `type` | `{tag}` |"
        for field in msgspec.structs.fields(kind):
            optional = "optional; " if field.default is msgspec.UNSET else ""
            name = field.encode_name
            yield f"| `{name}` | {optional}{MEANING.get(f'{tag}.{name}') or MEANING[name]} |"
        yield from (f"\n```json\n{golden(name)}\n```" for name in files)
        yield ""


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} written\n")
