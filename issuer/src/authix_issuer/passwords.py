"""Which passwords are acceptable (NIST SP 800-63B-4, 3.1.1.2).

Rule: length in characters and size in bytes, all of Unicode, normalised once (NFKC) and never truncated; refused when
common or derived from the email or the service's name; no rules of composition. The list of common ones knows few that
are as long as is asked for, so what they are made into counts as well: repeated, decorated, two in a row.
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
_AROUND = "0123456789 !@#$%^&*()-_=+.,?"


def password_bytes(password: str) -> bytes | None:
    """What is hashed; None when the password is no Unicode text or over 1,024 bytes."""
    try:
        if len(password.encode("utf-8")) > MAX_BYTES:
            return None
        normalised = unicodedata.normalize("NFKC", password).encode("utf-8")
    except UnicodeEncodeError:
        return None
    return normalised if len(normalised) <= MAX_BYTES else None


def read_new_password(
    password: str, email: Email | None, *, min_length: int, words: frozenset[str] = frozenset()
) -> bytes:
    """The bytes to hash; ``words`` are what else it must not be made of. Raises ``InputInvalid``."""
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
    if is_derived(characters, email, words):
        detail = "the password is made of the email address or of the name of this service"
        raise InputInvalid(Reason("password", "password_derived", detail))
    return data


def is_common(password: str) -> bool:
    """Whether the password is a sequence, or well known: bare, repeated, among digits and signs, or two of them."""
    folded = password.casefold()
    if len(_unit(folded)) <= 3 or _is_sequence(folded):
        return True
    forms = {folded, folded.strip(_AROUND)}
    letters = "".join(filter(str.isalpha, folded))
    if len(letters) * 2 >= len(folded):  # else what is left out says more than they do
        forms.add(letters)
    units = {_unit(form) for form in forms}
    return any(_is_known(word) for word in forms | units | {unit.strip(_AROUND) for unit in units})


def is_derived(password: str, email: Email | None, words: frozenset[str] = frozenset()) -> bool:
    """Whether little is left, or what is common, once ``words`` and the parts of the email are taken out."""
    whole = rest = password.casefold()
    if email is not None:
        local, _, domain = email.key.partition("@")
        words |= {email.key, local, domain, *words_of(email.key)}
    for word in sorted(words, key=len, reverse=True):
        if len(word) >= 4:
            rest = rest.replace(word, "")
    return rest != whole and (len(rest) < 8 or is_common(rest))


def words_of(*names: str) -> frozenset[str]:
    """The words in names of services or companies that are long enough to tell a password by."""
    return frozenset(word for name in names for word in _PART.findall(name.casefold()))


def _is_known(word: str) -> bool:
    """Whether it is a common password, or two in a row, which is how most long ones are made."""
    known, shortest, longest = _common()
    cuts = range(max(shortest, len(word) - longest), min(longest, len(word) - shortest) + 1)
    return word in known or any(word[:cut] in known and word[cut:] in known for cut in cuts)


def _unit(word: str) -> str:
    """The shortest text that ``word`` is a repetition of."""
    return word[: (word + word).find(word, 1)] if word else word


def _is_sequence(word: str) -> bool:
    """Whether each character follows its neighbour, up or down, 0 after 9."""
    steps = {ord(b) - ord(a) for a, b in pairwise(word)}
    return steps <= {1, -9} or steps <= {-1, 9}


@cache
def _common() -> tuple[frozenset[str], int, int]:
    """Passwords, and the lengths of the shortest and the longest of them."""
    # 30,000 most frequent passwords of public leaks; loaded on first use because the list is large
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # noqa: PLC0415 - see above

    passwords = frozenset(FREQUENCY_LISTS["passwords"])
    return passwords, len(min(passwords, key=len)), len(max(passwords, key=len))
