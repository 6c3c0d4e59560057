"""Email addresses as names of accounts.

Rule: an address is stored as its owner wrote it, normalised; two addresses are the same account when they differ only
in case or in Unicode form.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

from email_validator import EmailNotValidError, validate_email

from authix_issuer.errors import InputInvalid, Reason


class Email(NamedTuple):
    address: str
    key: str
    """What is unique: the address case-folded."""


def read_email(value: str) -> Email:
    """Normalise an address (RFC 5321, RFC 6531). Raises ``InputInvalid``."""
    try:
        valid = validate_email(value, check_deliverability=False)
    except EmailNotValidError as error:
        raise InputInvalid(Reason("email", "email_invalid", str(error))) from None
    return Email(valid.normalized, unicodedata.normalize("NFKC", valid.normalized).casefold())
