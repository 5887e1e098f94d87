"""`/metrics`: what the server does, for Prometheus. A registry for each server: two in one process do not mix."""

import hashlib
import hmac
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mcp_server_milvus.app import App
from mcp_server_milvus.meter import Meter
from mcp_server_milvus.settings import Settings, SettingsError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
MOST_LABELS = 1_024
"""Pairs of a tool and an outcome whose counters are found without prometheus-client's lock and checks."""

UNKNOWN = "unknown"
"""What every tool is called that there is not: names are the clients' to choose."""


def wanted_metrics(settings: Settings, tools: Iterable[str]) -> "Metrics | None":
    """The metrics of a new server with these tools, if it can have any.

    Raises:
        SettingsError: the settings want them, and the extra is not there.
    """
    if importlib.util.find_spec("prometheus_client"):
        return Metrics(settings, tools)
    if settings.metrics_port or settings.metrics_token.get_secret_value():
        raise SettingsError("metrics_port and metrics_token need more: pip install 'mcp-server-milvus[metrics]'")
    return None


class Metrics(Meter):
    """What happened so far, and what is the case when somebody looks."""

    def __init__(self, settings: Settings, tools: Iterable[str]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._tools = frozenset(tools)
        self._token = settings.metrics_token.get_secret_value()
        self.registry = CollectorRegistry()
        calls = Counter(
            "milvus_mcp_calls", "Calls by tool and outcome: ok or a code", ["tool", "code"], registry=self.registry
        )
        seconds = Histogram(
            "milvus_mcp_call_seconds", "Seconds of a call", ["tool"], buckets=SECONDS, registry=self.registry
        )
        self._calls = lru_cache(MOST_LABELS)(calls.labels)
        self._seconds = lru_cache(MOST_LABELS)(seconds.labels)
        self._under_way = Gauge("milvus_mcp_calls_in_flight", "Calls under way", registry=self.registry)

    def begun(self) -> None:
        self._under_way.inc()

    def ended(self, tool: str, outcome: str, seconds: float) -> None:
        name = tool if tool in self._tools else UNKNOWN
        self._under_way.dec()
        self._calls(name, outcome).inc()
        self._seconds(name).observe(seconds)

    def watch(self, app: App, sessions: Callable[[], int]) -> None:
        """Shows what the App's parts and the transports have at each look."""
        self.registry.register(_Looked(app, sessions))

    @property
    def route(self) -> Route:
        return Route("/metrics", self._answer)

    async def _answer(self, request: Request) -> Response:
        from prometheus_client.exposition import choose_encoder

        if self._token and not _shows(request, self._token):
            return PlainTextResponse("A bearer token is required", 401, headers={"WWW-Authenticate": "Bearer"})
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self.registry), media_type=content_type)


def _shows(request: Request, token: str) -> bool:
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    digests = [hashlib.sha256(each.encode()).digest() for each in (shown.strip(), token)]
    return scheme.lower() == "bearer" and hmac.compare_digest(*digests)


class _Looked:
    """A collector of prometheus-client's."""

    def __init__(self, app: App, sessions: Callable[[], int]) -> None:
        self._app = app
        self._sessions = sessions

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        schemas, engine = self._app.schemas, self._app.clients.engine
        pools = self._app.identities.pools or (self._app.clients,)
        connections, borrowed = sum(pool.connections for pool in pools), sum(pool.borrowed for pool in pools)
        yield GaugeMetricFamily("milvus_mcp_pool_connections", "Connections to Milvus", connections)
        yield GaugeMetricFamily("milvus_mcp_pool_borrowed", "Connections in use, once for each call", borrowed)
        yield CounterMetricFamily("milvus_mcp_schema_cache_hits", "Schemas that were known", schemas.hits)
        yield CounterMetricFamily("milvus_mcp_schema_cache_misses", "Schemas that were fetched", schemas.misses)
        yield GaugeMetricFamily("milvus_mcp_sessions", "HTTP sessions", self._sessions())
        if engine:
            yield GaugeMetricFamily(
                "milvus_mcp_engine_up", "1 if an embedded engine was reached last", int(engine.is_up)
            )
            yield CounterMetricFamily("milvus_mcp_engine_restarts", "Engines after the first", engine.restarts)
