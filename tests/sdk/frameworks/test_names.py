"""A text where names are asked for would be taken letter by letter: every integration says so at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from fastapi import FastAPI
from flask import Flask
from sanic import Sanic

from authix import Authix, SyncAuthix
from authix.aiohttp import AiohttpAuthix
from authix.asgi import AuthixMiddleware
from authix.django import access_token_required
from authix.fastapi import FastAPIAuthix
from authix.flask import FlaskAuthix
from authix.grpc import AuthixInterceptor, SyncAuthixInterceptor
from authix.rest_framework import has_roles
from authix.sanic import SanicAuthix
from authix.testing import InProcessIssuer

GIVEN: dict[str, Any] = {"issuer": "https://auth.example.com", "audience": "orders"}


async def nothing(*_: Any) -> None:
    """No application."""


MISTAKES: dict[str, Callable[[], object]] = {
    "asgi roles": lambda: AuthixMiddleware(nothing, auth=Authix(**GIVEN), roles="admin"),
    "asgi public": lambda: AuthixMiddleware(nothing, auth=Authix(**GIVEN), public="/health"),
    "fastapi roles": lambda: FastAPIAuthix(FastAPI(), **GIVEN).required(roles="admin"),
    "sanic roles": lambda: SanicAuthix(Sanic("names"), **GIVEN).required(roles="admin"),
    "aiohttp roles": lambda: AiohttpAuthix(web.Application(), **GIVEN).required(roles="admin"),
    "aiohttp public": lambda: AiohttpAuthix(web.Application(), **GIVEN).middleware(public="/health"),
    "aiohttp middleware roles": lambda: AiohttpAuthix(web.Application(), **GIVEN).middleware(roles="admin"),
    "flask roles": lambda: FlaskAuthix(Flask("names"), **GIVEN).required(roles="admin"),
    "flask public": lambda: FlaskAuthix(Flask("names"), public="health", **GIVEN),
    "django roles": lambda: access_token_required(roles="admin"),
    "grpc roles": lambda: AuthixInterceptor(Authix(**GIVEN), roles={"/a/B": "admin"}),
    "grpc public": lambda: SyncAuthixInterceptor(SyncAuthix(**GIVEN), public="/a/B"),
    "test kit roles": lambda: InProcessIssuer(**GIVEN).issue(roles="admin"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_text_for_names_is_refused_at_once(mistake: str) -> None:
    with pytest.raises(TypeError, match="names, not one text"):
        MISTAKES[mistake]()


def test_names_given_one_by_one_are_taken() -> None:
    has_roles("admin", "buyer")
    AuthixMiddleware(nothing, auth=Authix(**GIVEN), roles={"admin"}, public=("/health",))
    SyncAuthixInterceptor(SyncAuthix(**GIVEN), public=["/a/B"], roles={"/a/C": ["admin"]})
