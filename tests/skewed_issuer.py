"""``authix-issuer`` on a host whose clock is off by the seconds in the file ``SKEW``, which may change at any time."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_skew = Path(os.environ["SKEW"])
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + int(_skew.read_text(encoding="ascii"))
time.time_ns = lambda: _time_ns() + int(_skew.read_text(encoding="ascii")) * 1_000_000_000

from authix_issuer.cli import main  # noqa: E402 - after the clock is set

sys.exit(main())
