"""Traces by OpenTelemetry, which comes with the extra ``otel``.

Rule: without its API nothing is imported or made, and all that is carried on is the ``traceparent`` that came in. With
it, a logout is one trace from the request to the verifiers: the context travels in the headers of the event's Kafka
record. A span holds no token, no email address and no subject.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from importlib import import_module
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any, Final, TypeVar

logger = logging.getLogger("authix.tracing")

Headers = Sequence[tuple[str, bytes]]
"""Of a Kafka record."""
E = TypeVar("E")

_CARRIED: Final = ("traceparent", "tracestate")
_ON: Final = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
_END_WITHIN: Final = 3.0
_NOTHING: Final = contextlib.nullcontext()
_mode = SimpleNamespace(silent=False)
"""``silent``: nobody takes spans, so none is made."""
_came: ContextVar[Headers] = ContextVar("authix_traceparent", default=())

_trace: Any = None
_propagate: Any = None
_context: Any = None
with contextlib.suppress(ModuleNotFoundError):
    _trace = import_module("opentelemetry.trace")
    _propagate = import_module("opentelemetry.propagate")
    _context = import_module("opentelemetry.context")


def set_up(service: str) -> contextlib.AbstractContextManager[object]:
    """Export spans as the standard ``OTEL_*`` variables say, until the context ends; nothing where they say nothing.

    A tracer provider that somebody has set already, such as ``opentelemetry-instrument``, stays.
    """
    if _trace is None or not isinstance(_trace.get_tracer_provider(), _trace.ProxyTracerProvider):
        return _NOTHING
    exporter = _exporter() if any(os.environ.get(name) for name in _ON) else None
    if exporter is None:
        return _silence()
    sdk, export = import_module("opentelemetry.sdk.trace"), import_module("opentelemetry.sdk.trace.export")
    os.environ.setdefault("OTEL_SERVICE_NAME", service)
    provider = sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    _trace.set_tracer_provider(provider)
    ending = contextlib.ExitStack()
    ending.callback(_shut_down, provider)
    return ending


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    _mode.silent = True
    try:
        yield
    finally:
        _mode.silent = False


def _shut_down(provider: Any) -> None:
    """Export what is left; a collector that is away holds up no program's end."""
    ending = threading.Thread(target=provider.shutdown, daemon=True)
    ending.start()
    ending.join(_END_WITHIN)


def _exporter() -> Any:
    """That of ``OTEL_TRACES_EXPORTER``; None with a word in the log where there is none."""
    name = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        name = _PROTOCOLS.get(protocol or "http/protobuf", protocol or "")
    if name == "none":
        return None
    for found in entry_points(group="opentelemetry_traces_exporter", name=name):
        return found.load()()
    logger.warning("OTEL_TRACES_EXPORTER: there is no exporter %r here; install one, or the extra otel", name)
    return None


def makes_spans() -> bool:
    """Whether what is done is traced."""
    return _trace is not None and not _mode.silent


def span(name: str) -> contextlib.AbstractContextManager[object]:
    """A part of what is being done."""
    if not makes_spans():
        return _NOTHING
    current: contextlib.AbstractContextManager[object] = _tracer().start_as_current_span(name)
    return current


class Served:
    """The whole of a request that came with these header fields, from now until ``end``; what is not ended is lost."""

    def __init__(self, name: str, headers: Mapping[str, str]) -> None:
        _came.set([(key, headers[key].encode("latin-1")) for key in _CARRIED if key in headers])
        self._makes_spans = makes_spans()
        if self._makes_spans:
            self._span = _tracer().start_span(name, _propagate.extract(headers, _no_context()), _trace.SpanKind.SERVER)
            self._token = _context.attach(_trace.set_span_in_context(self._span, _no_context()))

    def end(self, status: int) -> None:
        _came.set(())
        if self._makes_spans:
            self._span.set_attribute("http.response.status_code", status)
            if status >= 500:
                self._span.set_status(_trace.StatusCode.ERROR)
            self._span.end()
            _context.detach(self._token)


def carried() -> Headers:
    """The context of now, for whoever does the rest of the work."""
    if makes_spans() and _trace.get_current_span().get_span_context().is_valid:
        return _inject(None)
    return _came.get()


@contextlib.contextmanager
def sending(topic: str, contexts: Mapping[E, Headers]) -> Iterator[Mapping[E, Headers]]:
    """Around the sending of events, each in the context it came from; yields the headers of their records."""
    if not makes_spans():
        yield contexts
        return
    spans = {event: _begin("send", "PRODUCER", topic, headers) for event, headers in contexts.items()}
    try:
        yield {event: _inject(_trace.set_span_in_context(span)) for event, span in spans.items()}
    except Exception as error:
        for each in spans.values():
            each.record_exception(error)
            each.set_status(_trace.StatusCode.ERROR)
        raise
    finally:
        for each in spans.values():
            each.end()


@contextlib.contextmanager
def taking(topic: str, received: Iterable[Headers]) -> Iterator[None]:
    """Around the taking of events that came with these headers of their records."""
    spans = []
    if makes_spans():
        spans = [_begin("process", "CONSUMER", topic, headers) for headers in received if headers]
    try:
        yield
    finally:
        for each in spans:
            each.end()


def _begin(what: str, kind: str, topic: str, headers: Headers) -> Any:
    # https://opentelemetry.io/docs/specs/semconv/messaging/
    attributes = {
        "messaging.system": "kafka",
        "messaging.destination.name": topic,
        "messaging.operation.type": what,
        "messaging.operation.name": what,
    }
    carrier = {name: value.decode("latin-1") for name, value in headers}
    context = _propagate.extract(carrier, _no_context())
    return _tracer().start_span(f"{what} {topic}", context, getattr(_trace.SpanKind, kind), attributes)


def _inject(context: Any) -> Headers:
    carrier: dict[str, str] = {}
    _propagate.inject(carrier, context)
    return [(name, value.encode("latin-1")) for name, value in carrier.items()]


def _no_context() -> Any:
    return _context.Context()


def _tracer() -> Any:
    return _trace.get_tracer("authix")
