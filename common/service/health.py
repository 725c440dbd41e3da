# SPDX-License-Identifier: Apache-2.0
"""/metrics, /healthz and /readyz of a service.

Ready means: no reason stands against it. A part of a service that is not ready yet says why, in words that an
operator can act on, and takes the reason back when it is over.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from common.errors import Refusal
from common.service.http_limits import PATIENCE, BoundedServer, HttpTimeouts, Rendered

log = logging.getLogger(__name__)


class Health:
    """The reasons why a service is not ready, one per part of it."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {"start": "starting"}
        self._details: dict[str, str] = {}
        self._logged: set[str] = set()

    def starting(self, part: str, reason: str) -> None:
        """Say what `part` does first. Not logged: every start is so, and a refused one shall say one line only."""
        self._reasons[part] = reason

    def waiting(self, part: str, reason: str, detail: str = "") -> None:
        """Say that `part` is not ready and why; logged once when it begins or changes.

        `detail` changes all the time: it is shown behind the reason, and a change of it is not logged.
        """
        self._details[part] = f" ({detail})" if detail else ""
        if self._reasons.get(part) != reason:
            self._reasons[part] = reason
            self._logged.add(part)
            log.warning("not ready: %s", reason, extra={"part": part})

    def ready(self, part: str) -> None:
        """Take back what was said against `part`; logged if that was."""
        self._reasons.pop(part, None)
        self._details.pop(part, None)
        if part in self._logged:
            self._logged.remove(part)
            log.info("ready again: %s", part)

    @property
    def reasons(self) -> dict[str, str]:
        """What stands against being ready, by part; empty when ready."""
        return {part: reason + self._details.get(part, "") for part, reason in self._reasons.items()}


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
