"""Verified claims are values: they are compared, hashed, copied and sent to other processes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from authix import Claims, Verifier

if TYPE_CHECKING:
    from tests.sdk.conftest import Mint

WAYS: dict[str, Callable[[Claims], Any]] = {
    "pickle": lambda claims: pickle.loads(pickle.dumps(claims)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
EXTRAS: list[dict[str, Any]] = [{}, {"tenant": "t1", "permissions": {"orders": ["read"]}}]


@pytest.fixture
def judge(mint: Mint, new_verifier: Callable[..., Verifier]) -> Callable[..., Claims]:
    """``judge(name=value)``: what a token with these claims says, by a verifier that has never seen it."""

    def judge(**claims: Any) -> Claims:
        return new_verifier().verify(mint(**claims), now=mint.now, monotonic=0)

    return judge


@pytest.mark.parametrize("extra", EXTRAS, ids=len)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_copy_says_the_same(
    judge: Callable[..., Claims], way: Callable[[Claims], Any], extra: dict[str, Any]
) -> None:
    claims = judge(**extra)
    found = way(claims)
    assert type(found) is Claims
    assert (found, hash(found)) == (claims, hash(claims))
    assert found.extra == extra
    with pytest.raises(TypeError):
        found.extra["tenant"] = "another"  # type: ignore[index] # what a type checker says too


def test_a_deep_copy_may_be_changed_without_harm(judge: Callable[..., Claims]) -> None:
    claims = judge(permissions={"orders": ["read"]})
    copy.deepcopy(claims).extra["permissions"]["orders"].append("write")
    assert claims.extra == {"permissions": {"orders": ["read"]}}


def test_they_are_found_in_a_set_by_what_they_say(judge: Callable[..., Claims]) -> None:
    claims, again, other = judge(tenant="t1"), judge(tenant="t1"), judge(tenant="t2")
    assert claims is not again
    assert {claims, again, other} == {claims, other}
    assert len({claims, judge(sub="ada"), judge(sid="another"), judge(jti="another")}) == 4
