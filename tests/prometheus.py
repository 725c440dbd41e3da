# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus that scrapes what a test serves."""

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.broker import free_port

SCRAPED_SECONDS = 60.0


class Prometheus:
    """Answers queries; `fresh` waits for a scrape of every target that is up first."""

    def __init__(self, port: int, targets: int) -> None:
        self._port = port
        self._targets = targets

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """Return the result of an instant query."""
        url = f"http://127.0.0.1:{self._port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            result: list[dict[str, Any]] = json.loads(answer.read())["data"]["result"]
            return result

    def fresh(self, expression: str, up: int | None = None) -> list[dict[str, Any]]:
        """Ask once `up` targets (default: all) have been scraped after this call."""
        asked, wanted = time.time(), self._targets if up is None else up
        deadline = time.monotonic() + SCRAPED_SECONDS
        while time.monotonic() < deadline:
            # timestamp() gives a sample's own time for a plain selector only; of any other vector, the query's.
            scraped = self.ask('timestamp(up{job="zonemeter"}) and (up{job="zonemeter"} == 1)')
            if sum(float(each["value"][1]) > asked for each in scraped) >= wanted:
                return self.ask(expression)
            time.sleep(0.2)
        raise TimeoutError(f"Prometheus does not scrape {wanted} targets")


@contextmanager
def prometheus(targets: Sequence[str], directory: Path) -> Iterator[Prometheus]:
    """Run one that scrapes `targets` (HOST:PORT) every second while the context lasts."""
    own = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "prometheus.yml"
    job = {"job_name": "zonemeter", "scrape_interval": "1s", "static_configs": [{"targets": list(targets)}]}
    config.write_text(json.dumps({"scrape_configs": [job]}))
    argv = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory}/tsdb"]
    argv += [f"--web.listen-address=127.0.0.1:{own}", "--log.level=warn"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield Prometheus(own, len(targets))
        finally:
            process.terminate()
