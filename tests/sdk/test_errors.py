"""Every error travels: between processes, as ``concurrent.futures`` and Celery send them, and by a copy."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from authix import errors
from authix.errors import AudienceWrong, AuthixError, ClaimError, ClaimMissing, IssuerWrong, TokenNotYetValid

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, AuthixError)]
ARGUMENTS: dict[type[AuthixError], tuple[str, ...]] = {
    ClaimError: ("sid", "is not as it must be"),
    ClaimMissing: ("sub",),
    TokenNotYetValid: ("nbf",),
    IssuerWrong: (),
    AudienceWrong: (),
}
"""Of those that take others than a reason."""
WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda error: pickle.loads(pickle.dumps(error)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


class Other(AuthixError):
    """One of a program of its own, with more to tell."""

    def __init__(self, where: list[str], *, when: int) -> None:
        super().__init__(f"there: {where} at {when}")
        self.where = where


def made(kind: type[Any]) -> AuthixError:
    error: AuthixError = kind(*ARGUMENTS.get(kind, ("the reason",)))
    return error


def test_none_is_left_out() -> None:
    assert len(KINDS) > 20


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    "error",
    [*map(made, KINDS), errors.TokenError(), errors.SignatureInvalid("wrong", known=True), Other(["a"], when=1)],
    ids=lambda error: f"{type(error).__name__}-{error}",
)
def test_a_copy_tells_the_same(error: AuthixError, way: Callable[[Any], Any]) -> None:
    error.add_note("and a note")
    found = way(error)
    assert type(found) is type(error)
    assert (str(found), repr(found), found.args) == (str(error), repr(error), error.args)
    assert (found.code, found.status) == (error.code, error.status)
    assert vars(found) == vars(error)


def refuse() -> None:
    raise IssuerWrong


def test_a_pool_of_processes_hands_it_on_and_lives() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for _ in range(2):
            with pytest.raises(IssuerWrong, match="is not the expected issuer"):
                pool.submit(refuse).result(timeout=60)
