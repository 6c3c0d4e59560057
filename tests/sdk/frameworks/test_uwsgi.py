"""uWSGI forks its workers without a word to Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sdk.frameworks.conftest import Service, User


def test_every_worker_refuses_a_logged_out_users_token_and_takes_the_next(
    on_uwsgi: Service, new_user: Callable[[], User]
) -> None:
    user = new_user()
    token = user.login()
    on_uwsgi.every_worker_answers("/me", token, 200)
    user.logout()
    on_uwsgi.every_worker_answers("/me", token, 401, "token_revoked")
    on_uwsgi.every_worker_answers("/me", user.login(), 200)
