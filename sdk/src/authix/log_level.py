"""The log level of a program, and its change while the program runs: for Authix's own programs.

Rule: the level is a setting like any other. It is read again at SIGHUP and looked at every few seconds, so that one in
a file or in the mounted settings folder takes effect without a restart; a wrong one changes nothing but the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, NoReturn

from authix.errors import SettingsError

logger = logging.getLogger("authix.log_level")

LEVELS: Final = ("debug", "info", "warning", "error")
EVERY = 2.0
"""Seconds between two looks."""


def use(level: str) -> None:
    """Let nothing below ``level`` into the log, whatever level its own logger has."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    for handler in root.handlers:
        handler.setLevel(level.upper())


class LiveLevel:
    """``read`` tells the level as it is set now, or raises ``SettingsError``; ``use`` puts one in force."""

    def __init__(self, level: str, read: Callable[[], str], use: Callable[[str], None] = use) -> None:
        self._level = level
        self._read = read
        self._use = use
        self._problem = ""
        self._looked = time.monotonic()

    def refresh(self) -> None:
        """Put in force what is set now, if that is another level."""
        try:
            level = self._read()
        except SettingsError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                logger.error("%s The level from before stays in force.", error)  # noqa: TRY400 - the sentence says all
            return
        self._problem = ""
        if level != self._level:
            self._use(min(level, self._level, key=LEVELS.index))  # the one that lets the next line through
            logger.info("the log level is %s now, after %s", level, self._level)
            self._use(level)
            self._level = level

    def tick(self) -> None:
        """``refresh`` when it is time to; to be called now and then."""
        if time.monotonic() - self._looked >= EVERY:
            self._looked = time.monotonic()
            self.refresh()

    async def follow(self) -> NoReturn:
        """Look for ever."""
        while True:
            await asyncio.sleep(EVERY)
            self.refresh()
