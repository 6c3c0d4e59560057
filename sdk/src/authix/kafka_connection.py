"""Why Kafka does not take a client as the settings are.

Rule: only what a setting mends is told; servers that are away, or that end a connection for reasons of their own, are
no matter of settings. aiokafka keeps its reasons to itself, so each server is asked once more, step by step. Passwords
go only to where the settings send them, and never into a sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    for_code,
)
from aiokafka.protocol.admin import SaslHandShakeRequest

_STEP_MS = 1500
_GOODBYE = 0.5
_TLS_ALERT = 0x15
_FAILURES = (KafkaError, OSError, EOFError, TimeoutError)


async def refusal(servers: str, options: Mapping[str, Any]) -> str | None:
    """A sentence that names the setting; None when a server takes the client or none can be blamed on a setting.

    ``servers`` and ``options`` are those that aiokafka was given.
    """
    asked = await asyncio.gather(*(_ask(server, options) for server in servers.split(",")))
    return None if "" in asked else next(filter(None, asked), None)


async def _ask(server: str, options: Mapping[str, Any]) -> str | None:
    """As ``refusal``; an empty sentence when the server takes the client."""
    try:
        async with _connected(server, options) as connection:
            if "sasl_mechanism" not in options and await _wants_sasl(connection):
                return f"{server} wants a user and password: set AUTHIX_KAFKA_SASL"
            return ""
    except _FAILURES as error:
        return _blame(server, error) or await _speaks_no_tls(server, options)


def _blame(server: str, error: BaseException) -> str | None:
    match error:
        case SaslAuthenticationFailed():
            return f"{server} refuses the user or the password: mend AUTHIX_KAFKA_USERNAME and AUTHIX_KAFKA_PASSWORD"
        case UnsupportedSaslMechanismError():
            return f"{server} does not offer this way to log in: mend AUTHIX_KAFKA_SASL"
        case IllegalSaslStateError():
            return f"{server} wants no user and password there: name its SASL port, or set no AUTHIX_KAFKA_SASL"
        case ssl.SSLCertVerificationError():
            return (
                f"{server} shows a certificate that is not trusted ({error.verify_message}): name the file of its "
                "authority's certificate by AUTHIX_KAFKA_CA"
            )
    if isinstance(cause := error.__cause__, asyncio.IncompleteReadError) and (cause.expected or 0) >> 24 == _TLS_ALERT:
        return f"{server} speaks TLS: set AUTHIX_KAFKA_TLS=yes"
    return None


async def _wants_sasl(connection: AIOKafkaConnection) -> bool:
    answer = await connection.send(SaslHandShakeRequest("PLAIN"))
    return for_code(answer.error_code) is not IllegalSaslStateError


async def _speaks_no_tls(server: str, options: Mapping[str, Any]) -> str | None:
    if "ssl_context" not in options:
        return None
    with contextlib.suppress(*_FAILURES):
        async with _connected(server, {}):
            return f"{server} does not speak TLS: name its TLS port, or set no AUTHIX_KAFKA_TLS"
    return None


@contextlib.asynccontextmanager
async def _connected(server: str, options: Mapping[str, Any]) -> AsyncIterator[AIOKafkaConnection]:
    host, _, port = server.rpartition(":")
    connection = AIOKafkaConnection(host.strip("[]"), int(port), request_timeout_ms=_STEP_MS, **options)
    try:
        async with asyncio.timeout(_STEP_MS / 1000):
            await connection.connect()
        yield connection
    finally:
        # TLS says goodbye first; an event loop that ended before would leave the socket open. It may never have been.
        await asyncio.wait([connection.close()], timeout=_GOODBYE)
