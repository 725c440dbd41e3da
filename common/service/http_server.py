# SPDX-License-Identifier: Apache-2.0
"""/metrics, /healthz and /readyz of a service, over HTTP."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from common.errors import Refusal
from common.service.health import Health
from common.service.http_limits import PATIENCE, BoundedServer, HttpTimeouts, Rendered


@asynccontextmanager
async def serve(
    listen: str,
    health: Health,
    registry: CollectorRegistry,
    extra: Callable[[], bytes] | None = None,
    patience: HttpTimeouts = PATIENCE,
) -> AsyncIterator[None]:
    """Serve the three paths at HOST:PORT while the context lasts; raise `Refusal` if the port cannot be had.

    `extra` renders further metrics (Prometheus text format) before the registry's own. It runs in a thread, so
    that a scrape of many series does not stall the pipeline. What a client may cost: see http_limits.py.
    """
    metrics = Rendered(lambda: (extra() if extra else b"") + generate_latest(registry))

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        if request.path == "/metrics":
            return await metrics.answer(request, CONTENT_TYPE_PLAIN_0_0_4)
        if request.path == "/healthz":
            return web.Response(text="ok\n")
        if request.path == "/readyz":
            lines = [f"{part}: {reason}" for part, reason in health.reasons.items()]
            return web.Response(status=503 if lines else 200, text="\n".join(lines or ["ok"]) + "\n")
        return web.Response(status=404, text="not found: /metrics, /healthz and /readyz are here\n")

    runner = web.ServerRunner(BoundedServer(answer, registry, patience), shutdown_timeout=1.0)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except OSError as error:
        await runner.cleanup()
        raise Refusal(f"listen = {listen!r}: {error.strerror}; choose another with --listen HOST:PORT") from error
    try:
        yield
    finally:
        await metrics.close()
        await runner.cleanup()
