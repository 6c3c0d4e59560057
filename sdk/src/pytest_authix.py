"""The pytest plugin of ``authix.testing``.

Rule: it is loaded into every run of pytest where Authix is installed, so it imports nothing and does nothing before a
test asks for one of its fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from authix.testing import InProcessIssuer


@pytest.fixture(scope="session")
def authix_session() -> Iterator[InProcessIssuer]:
    """An in-process issuer for the whole run, for applications that are started once for many tests."""
    from authix.testing import InProcessIssuer  # noqa: PLC0415 - see the module's rule

    with InProcessIssuer() as issuer:
        yield issuer


@pytest.fixture
def authix_tokens() -> Iterator[InProcessIssuer]:
    """An in-process issuer for this test; that of ``authix_session``, without its past, where that is in use."""
    from authix import runtime  # noqa: PLC0415 - as above
    from authix.testing import InProcessIssuer  # noqa: PLC0415 - as above

    if isinstance(runtime.stand_in, InProcessIssuer):
        runtime.stand_in.reset()
        yield runtime.stand_in
        return
    with InProcessIssuer() as issuer:
        yield issuer
