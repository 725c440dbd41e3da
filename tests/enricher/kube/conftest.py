# SPDX-License-Identifier: Apache-2.0
"""A test of a reflector, run against an API."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from enricher.kube import reflector
from lab.kube.api import ApiSettings
from tests.support.enricher.watched import TOKEN, Cluster, Script, following


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a test against an API, quickly: small pages, short back-off."""
    monkeypatch.setattr(reflector, "PAGE_OBJECTS", 5)
    monkeypatch.setattr(reflector, "FIRST_BACKOFF_SECONDS", 0.02)

    def now(
        test: Callable[[Cluster], Awaitable[None]],
        script: Script | None = None,
        token: str = TOKEN,
        silence: float = 60,
    ) -> None:
        async def inside() -> None:
            settings = ApiSettings(TOKEN, bookmark_seconds=0.1 if silence >= 60 else 60)
            async with (
                asyncio.timeout(120),
                following(tmp_path, script or Script(), settings, token, silence) as made,
            ):
                await test(made)

        asyncio.run(inside())

    return now
