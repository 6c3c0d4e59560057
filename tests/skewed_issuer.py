"""``authix-issuer`` on a host whose clock is off by ``SKEW_SECONDS``."""

from __future__ import annotations

import os
import sys
import time

_skew = int(os.environ["SKEW_SECONDS"])
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _skew
time.time_ns = lambda: _time_ns() + _skew * 1_000_000_000

from authix_issuer.cli import main  # noqa: E402 - after the clock is set

sys.exit(main())
