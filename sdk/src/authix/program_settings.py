"""The settings that the issuer and the sidecar have in common: where they listen, what they log, how they end.

Rule: one name means the same at both.
"""

from __future__ import annotations

import dataclasses

from authix.log_level import LEVELS
from authix.settings import choice, setting, text, whole_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramSettings:
    """What either program must know."""

    host: str = setting("AUTHIX_HOST", text, "the address to listen on", default="127.0.0.1")
    log: str = setting("AUTHIX_LOG", choice("console", "json"), "console or json", default="console")
    log_level: str = setting(
        "AUTHIX_LOG_LEVEL",
        choice(*LEVELS),
        "from which level on there are lines: debug, info, warning or error; taken up without a restart",
        default="info",
    )
    drain_time: int = setting(
        "AUTHIX_DRAIN_TIME",
        whole_number(1, 600),
        "seconds for which requests are still answered after SIGTERM",
        default=10,
    )
