"""The policy that is in force, and the file it comes from.

Rule: a file that is changed while we run is taken whole or not at all: a broken one changes nothing but the log and a
counter. It is taken once two looks in a row have seen it the same, so that one half written is not taken for one that
lost its second half; a mounted ConfigMap, whose symbolic link is turned to another folder, is seen as any change is.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from authix.errors import SettingsError
from authix_sidecar.decide import Requirement
from authix_sidecar.policy_file import load_policy, place
from authix_sidecar.policy_review import review
from authix_sidecar.requests import RequestHead

logger = logging.getLogger("authix.sidecar")

_Seen = tuple[int, ...] | None


class LivePolicy:
    """A policy that may be another one for the next request."""

    def __init__(self, path: str, *, host: str = "", passes_authorization: bool = True) -> None:
        """``host`` and ``passes_authorization`` as ``read_policy`` takes them. Raises ``SettingsError``."""
        self.errors = 0
        """How often the file could not be taken."""
        self.loaded_at = 0.0
        """When what is in force was read, in epoch seconds."""
        self._path = path
        self._host = host
        self._passes_authorization = passes_authorization
        self._taken = self._seen = _look_at(path)
        self._take()

    def __call__(self, request: RequestHead) -> Requirement:
        return self.routes(request)

    @property
    def by_host(self) -> bool:
        """Whether a request's host plays a part."""
        return self.routes.by_host

    def refresh(self) -> None:
        """Look whether the file has changed; to be called now and then."""
        before, self._seen = self._seen, _look_at(self._path)
        if self._seen == before != self._taken:
            self.reload()

    def reload(self) -> None:
        """Take the file as it is now, or say why not."""
        self._taken = self._seen = _look_at(self._path)
        try:
            self._take()
        except SettingsError as error:
            self.errors += 1
            for sentence in str(error).splitlines():
                logger.error("%s The policy from before stays in force.", sentence)  # noqa: TRY400 - the sentence says all
        else:
            logger.info("policy %s taken: %d routes", self._path, len(self.routes.routes))

    def _take(self) -> None:
        self.routes = load_policy(self._path, host=self._host, passes_authorization=self._passes_authorization)
        self.loaded_at = time.time()
        for found in review(self.routes.routes):
            logger.warning("%s %s.", place(self._path, found.route), found.sentence)


def _look_at(path: str) -> _Seen:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
