"""Real servers as plain processes.

Rule: a server has its port and its folder for life, so it comes back after ``kill`` as the same server with the same
data; ``start`` returns when it answers its own protocol. Each module here knows one server: how to install it once into
``.servers/``, why it may be missing, how to start it.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.programs import eventually, free_port

START_WITHIN = 60.0
STOP_WITHIN = 20.0


class Server:
    """A server that runs in ``folder`` on a free loopback port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot start on this machine; None when it can."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Before each start: lay out what the command expects in the folder."""

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it answers its protocol as a server that works."""
        raise NotImplementedError

    def start(self) -> Self:
        """Start it and wait until it answers."""
        return self.launch().wait()

    def launch(self) -> Self:
        """Start it without waiting, for one that needs others to answer."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prepare()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for whoever started it
            )
        return self

    def wait(self) -> Self:
        """Wait until it answers; it does not outlive a failure."""
        try:
            eventually(self._answers_or_ended, f"{self} answers", START_WITHIN)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> int:
        """Ask it to end; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_WITHIN)

    def kill(self) -> None:
        """As a crash does it: kill -9. What the server has written is with the kernel and survives this."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def restart(self) -> Self:
        """Stop it and start it again on the same port and data."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Let it hang: connections stay and are not served."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def __str__(self) -> str:
        return f"{type(self).__name__} on port {self.port} in {self.folder}"

    def _answers_or_ended(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self} ended:\n{self.output()[-4000:]}"
        try:
            return self.answers()
        except OSError:
            return False
