"""The master secret and the keys derived from it.

Rule: one secret, one derived key per purpose (HKDF-SHA256, RFC 5869), so that no key serves two. While the secret is
exchanged a second one is there to read with. The embedded default makes its secret on the first start, in a file only
its owner may read.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from authix.errors import SettingsError


class MasterSecret:
    """``previous`` is the one before, or the one to come: only what it protects is still read."""

    def __init__(self, secret: str, previous: str = "") -> None:
        self._secrets = [text.encode("utf-8") for text in (secret, previous) if text]

    def derive(self, purpose: str) -> bytes:
        """A 32-byte key for ``purpose`` alone."""
        return self.derive_all(purpose)[0]

    def derive_all(self, purpose: str) -> list[bytes]:
        """The key to write with, and after it the key of the other secret, to read with."""
        info = b"authix/" + purpose.encode("ascii")
        return [HKDF(SHA256(), 32, None, info).derive(secret) for secret in self._secrets]


def kept_in(data_dir: Path, previous: str = "") -> MasterSecret:
    """The secret in ``data_dir``, made if there is none. Raises ``SettingsError`` when it can't be read or kept."""
    path = data_dir / "secret"
    try:
        if not path.exists():
            _make(path)
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise SettingsError(
            f"AUTHIX_SECRET is not set and {path} can't be kept ({reason}): set one of them right."
        ) from None
    if len(secret) < 32:
        raise SettingsError(f"AUTHIX_SECRET is not set and {path} does not hold a secret: restore the file.")
    return MasterSecret(secret, previous)


def _make(path: Path) -> None:
    """Write a whole secret under its name at once, durable before it is used; of two starters one wins."""
    draft = path.with_name(f"secret.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(secrets.token_urlsafe(48))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
