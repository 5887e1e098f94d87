"""Traces for OpenTelemetry, with the extra `otel`, where its standard variables ask for them: OTLP over HTTP.

The SDK of MCP has a span for each request, which continues the trace of a caller that sends `_meta.traceparent`; those
of `milvus.spans` are under it. Where a program has set up a provider of its own, that is used as it is.
"""

import logging
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider, set_tracer_provider

from mcp_server_milvus import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
EXPORTER, PROTOCOL = "otlp", "http/protobuf"
"""The one exporter that there is here, and what it speaks."""

FLUSH_SECONDS = 5.0
"""At the end, for a collector that does not answer."""

SPANS = "OpenTelemetryMiddleware"
"""The SDK's class that begins a span for each request, in a module of its own that is private. It takes a hundredth of
a call where nobody records spans."""

LOGGER = logging.getLogger(__name__)


@asynccontextmanager
async def tracing(server: MCPServer[Any]) -> AsyncGenerator[None]:
    """While the block runs, the server's calls are traced if the environment asks for it."""
    if not is_wanted(os.environ):
        if isinstance(get_tracer_provider(), ProxyTracerProvider):
            server.middleware[:] = [each for each in server.middleware if type(each).__name__ != SPANS]
        yield
        return
    exporting = _Exporting()
    server.middleware.insert(0, exporting)  # before the SDK's, which begins the span
    try:
        yield
    finally:
        await exporting.end()


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the variables ask for traces: an exporter is named, or an endpoint."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if exporters := environment.get("OTEL_TRACES_EXPORTER", "").strip():
        return exporters != "none"
    return any(environment.get(name, "").strip() for name in ENDPOINTS)


class _Exporting:
    """Middleware of the server: the exporter, made for the first call of a tool. A handshake need not wait for it."""

    def __init__(self) -> None:
        self._making = anyio.Lock()
        self._is_made = False
        self._provider: TracerProvider | None = None

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method == "tools/call" and not self._is_made:
            await self._make()
        return await call_next(ctx)

    async def _make(self) -> None:
        async with self._making:
            if not self._is_made:
                self._provider = await anyio.to_thread.run_sync(_provider, os.environ)
                self._is_made = True

    async def end(self) -> None:
        """Sends what is left, for some seconds at most; the thread is none that a process waits for."""
        if self._provider:
            flushing = Thread(target=self._provider.shutdown, daemon=True)
            flushing.start()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(flushing.join, FLUSH_SECONDS)


def _provider(environment: Mapping[str, str]) -> "TracerProvider | None":
    """The provider of this process, set up now; None if it has another one, or cannot have what is asked for."""
    if not isinstance(get_tracer_provider(), ProxyTracerProvider) or not _is_possible(environment):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        LOGGER.warning('traces are asked for, and this needs the extra otel: pip install "mcp-server-milvus[otel]"')
        return None
    own = {"service.name": "mcp-server-milvus", "service.version": __version__}
    resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    set_tracer_provider(provider)
    return provider


def _is_possible(environment: Mapping[str, str]) -> bool:
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip() or EXPORTER
    protocol = next(filter(None, (environment.get(name, "").strip() for name in PROTOCOLS)), PROTOCOL)
    if (exporter, protocol) == (EXPORTER, PROTOCOL):
        return True
    LOGGER.warning(
        "there are no traces: %s by %s is asked for, and only otlp by http/protobuf is there", exporter, protocol
    )
    return False
