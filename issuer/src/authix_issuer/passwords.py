"""Which passwords are acceptable (NIST SP 800-63B-4, 3.1.1.2).

Rule: length in characters and size in bytes, all of Unicode, normalised once (NFKC) and never truncated; refused when
common or derived from the email; no rules of composition.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import pairwise

from authix_issuer.emails import Email
from authix_issuer.errors import InputInvalid, Reason

MAX_BYTES = 1024
_PART = re.compile(r"\w{4,}")


def password_bytes(password: str) -> bytes | None:
    """What is hashed; None when the password is no Unicode text or over 1,024 bytes."""
    try:
        if len(password.encode("utf-8")) > MAX_BYTES:
            return None
        normalised = unicodedata.normalize("NFKC", password).encode("utf-8")
    except UnicodeEncodeError:
        return None
    return normalised if len(normalised) <= MAX_BYTES else None


def read_new_password(password: str, email: Email | None, *, min_length: int) -> bytes:
    """The bytes to hash. Raises ``InputInvalid``."""
    data = password_bytes(password)
    if data is None:
        raise InputInvalid(
            Reason("password", "password_too_long", f"the password is not text of at most {MAX_BYTES} bytes")
        )
    characters = data.decode("utf-8")
    if min(len(password), len(characters)) < min_length:  # neither spelling may make it longer
        detail = f"the password has fewer than {min_length} characters"
        raise InputInvalid(Reason("password", "password_too_short", detail))
    if is_common(characters):
        raise InputInvalid(Reason("password", "password_common", "the password is one that attackers try first"))
    if email is not None and is_derived(characters, email):
        raise InputInvalid(Reason("password", "password_derived", "the password is made of the email address"))
    return data


def is_common(password: str) -> bool:
    """Whether the password is well known, bare or with digits and signs around it or repeated, or a sequence."""
    folded = password.casefold()
    core = folded.strip("0123456789 !@#$%^&*()-_=+.,?")
    if len(_unit(folded)) <= 2 or _is_sequence(folded):
        return True
    return any(word in _common() for word in (folded, _unit(folded), core, _unit(core)))


def is_derived(password: str, email: Email) -> bool:
    """Whether little is left of the password once the parts of the email are taken out."""
    rest = password.casefold()
    local, _, domain = email.key.partition("@")
    for part in sorted({email.key, local, domain, *_PART.findall(email.key)}, key=len, reverse=True):
        if len(part) >= 4:
            rest = rest.replace(part, "")
    return len(rest) < len(password) and len(rest) < 8


def _unit(word: str) -> str:
    """The shortest text that ``word`` is a repetition of."""
    return word[: (word + word).find(word, 1)] if word else word


def _is_sequence(word: str) -> bool:
    """Whether each character follows its neighbour, up or down, 0 after 9."""
    steps = {ord(b) - ord(a) for a, b in pairwise(word)}
    return steps <= {1, -9} or steps <= {-1, 9}


@cache
def _common() -> frozenset[str]:
    # 30,000 most frequent passwords of public leaks; loaded on first use because the list is large
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # noqa: PLC0415 - see above

    return frozenset(FREQUENCY_LISTS["passwords"])
