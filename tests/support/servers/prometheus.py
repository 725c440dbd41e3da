# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus that scrapes what a test serves."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.service.http_limits import SHARED_SECONDS
from lab.kafka.broker import free_port

SCRAPED_SECONDS = 120.0
# The job that a test waits for, under the name that the alert rules and the dashboards know it by.
JOB = "zonemeter-metrics"


class Prometheus:
    """Answers queries; `fresh` waits for a scrape of every target that is up first."""

    def __init__(self, port: int, targets: int) -> None:
        self._port = port
        self._targets = targets

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """Return the result of an instant query."""
        return self._get("query", query=expression)

    def over(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """Return the result of a range query: every 5 s from `start` to `end`, in Unix seconds."""
        return self._get("query_range", query=expression, start=start, end=end, step=5)

    def _get(self, what: str, **parameters: object) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{self._port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                result: list[dict[str, Any]] = json.loads(answer.read())["data"]["result"]
                return result
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters['query']}: {error.read().decode()}") from error

    def fresh(self, expression: str, up: int | None = None) -> list[dict[str, Any]]:
        """Ask once `up` targets (default: all) have given what they had when this was called.

        A scrape may get what was being rendered already, or was rendered for somebody else a moment ago.
        """
        wanted = self._targets if up is None else up
        self._wait_for_scrapes(wanted, after=time.time())
        self._wait_for_scrapes(wanted, after=time.time() + SHARED_SECONDS)
        return self.ask(expression)

    def _wait_for_scrapes(self, wanted: int, after: float) -> None:
        deadline = time.monotonic() + SCRAPED_SECONDS
        while time.monotonic() < deadline:
            # timestamp() gives a sample's own time for a plain selector only; of any other vector, the query's.
            scraped = self.ask(f'timestamp(up{{job="{JOB}"}}) and (up{{job="{JOB}"}} == 1)')
            if sum(float(each["value"][1]) > after for each in scraped) >= wanted:
                return
            time.sleep(0.2)
        raise TimeoutError(f"Prometheus does not scrape {wanted} targets")


@contextmanager
def prometheus(
    targets: Sequence[str], directory: Path, others: Mapping[str, str] | None = None, rules: str = ""
) -> Iterator[Prometheus]:
    """Run one that scrapes `targets` (HOST:PORT) every second while the context lasts.

    `others`: a target by the name of its job. `rules`: the text of a file of rules, evaluated every second.
    """
    own = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "prometheus.yml"
    (directory / "rules.yml").write_text(rules or "groups: []")
    jobs = {JOB: list(targets), **{name: [target] for name, target in (others or {}).items()}}
    scraped = [{"job_name": name, "static_configs": [{"targets": where}]} for name, where in jobs.items()]
    every_second = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config.write_text(json.dumps({"global": every_second, "rule_files": ["rules.yml"], "scrape_configs": scraped}))
    argv = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory}/tsdb"]
    argv += [f"--web.listen-address=127.0.0.1:{own}", "--log.level=warn"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield Prometheus(own, len(targets))
        finally:
            process.terminate()
