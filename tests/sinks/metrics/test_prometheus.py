# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes the sink, also across a kill -9, and is asked what kubezonnet's dashboards ask."""

import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from lab.kafka.broker import free_port
from tests.support.services import eventually
from tests.support.sinks.flows import encoded, window
from tests.support.sinks.processes import running
from tests.support.sinks.topics import Topics

Answer = dict[tuple[tuple[str, str], ...], float]


class Prometheus:
    """The HTTP API of one."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> Answer:
        """Evaluate an instant query; nothing while it does not answer yet."""
        parameters = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{parameters}", timeout=10) as response:
                result: list[dict[str, Any]] = orjson.loads(response.read())["data"]["result"]
        except OSError:
            return {}
        return {tuple(sorted(each["metric"].items())): float(each["value"][1]) for each in result}

    def value(self, expression: str) -> float | None:
        """Return the value of a query that has one result."""
        return next(iter(self.query(expression).values()), None)


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[Prometheus]:
    """Run Debian's Prometheus, scraping `target` five times a second."""
    directory.mkdir()
    config = directory / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
        f"scrape_configs: [{{job_name: zonemeter, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield Prometheus(port)
    finally:
        process.kill()
        process.wait()


def equals(asked: Prometheus, expression: str, expected: float) -> float | None:
    found = asked.value(expression)
    return found if found == expected else None


def test_prometheus_sees_exact_counters_without_a_reset(topics: Topics, tmp_path: Path) -> None:
    flags = [*topics.flags, "--state-dir", str(tmp_path / "state"), "--checkpoint-seconds", "0.1"]
    size = sum(range(100, 150))
    with running("metrics", flags, tmp_path / "log") as sink, prometheus(tmp_path / "prometheus", sink.listen) as asked:
        topics.produce({0: [encoded(each) for each in window(1, 50)]})
        eventually(lambda: equals(asked, 'zonemeter_zone_bytes_total{src_zone="a",dst_zone="b"}', size))
        for number in range(2, 5):
            sink.restart()
            topics.produce({0: [encoded(each) for each in window(number, 50)]})
            eventually(lambda total=number * size: equals(asked, "zonemeter_zone_bytes_total", total))  # type: ignore[misc]
        assert asked.value("sum(resets(zonemeter_zone_bytes_total[5m]))") == 0
        assert asked.value("sum(resets(zonemeter_workload_bytes_total[5m]))") == 0
        workload = {(("dst_workload", "postgres"), ("src_namespace", "shop"), ("src_workload", "api")): 4 * size}
        # With a scrape that came too late for Prometheus all series are gone, until the next.
        eventually(
            lambda: (
                asked.query("sum by (src_namespace, src_workload, dst_workload) (zonemeter_workload_bytes_total)")
                == workload
            )
        )
        [(labels, bytes_per_second)] = asked.query(
            "topk(20, sum by (namespace, pod) (rate(pod_cross_zone_network_traffic_bytes_total[5m])))"
        ).items()
        assert labels == (("namespace", "shop"), ("pod", "api-0"))
        assert bytes_per_second > 0
        eventually(lambda: equals(asked, "count by (__name__) (zonemeter_nodes)", 2))
