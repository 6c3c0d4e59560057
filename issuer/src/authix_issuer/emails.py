"""Email addresses as names of accounts.

Rule: an address is stored as its owner wrote it, normalised; two addresses are the same account when they differ only
in case or in Unicode form.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

from email_validator import EmailNotValidError, validate_email

from authix_issuer.errors import InputInvalid, Reason

_MAX_CHARACTERS = 1024  # no address has as many (RFC 5321, 4.5.3.1); to normalise more would take an attacker's time


class Email(NamedTuple):
    address: str
    key: str
    """What is unique: the address, compatibility case-folded (Unicode 3.13, D146)."""


def read_email(value: str) -> Email:
    """Normalise an address (RFC 5321, RFC 6531). Raises ``InputInvalid``."""
    if len(value) > _MAX_CHARACTERS:
        raise InputInvalid(Reason("email", "email_invalid", "The email address is too long."))
    try:
        valid = validate_email(value, check_deliverability=False)
    except EmailNotValidError as error:
        raise InputInvalid(Reason("email", "email_invalid", str(error))) from None
    return Email(valid.normalized, _folded(valid.normalized))


def _folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text).casefold()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKD", decomposed).casefold())
