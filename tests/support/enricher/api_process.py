# SPDX-License-Identifier: Apache-2.0
"""The lab's Kubernetes API as a process, with the shop in it, and how a test changes the cluster."""

import contextlib
import dataclasses
import json
import os
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from lab.kafka.broker import free_port
from lab.kube.api import ApiStart
from lab.kube.kubeconfig import kubeconfig
from lab.kube.objects import node_object, objects, pod_object, rfc3339, service_object
from lab.plan import Plan, Pod
from lab.stories import shop
from tests.support.forked import Forked
from tests.support.services import DEADLINE_SECONDS, ROOT, eventually

PLAN = shop()
AT = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
POSTGRES = next(pod for pod in PLAN.pods if pod.name == "postgres-0")
# A pod that the plan does not know, with addresses in the podCIDRs of its node.
LATE = dataclasses.replace(
    POSTGRES,
    name="postgres-1",
    address_v4=POSTGRES.address_v4.rpartition(".")[0] + ".200",
    address_v6=POSTGRES.address_v6.rpartition(":")[0] + ":c8",
)


class Api:
    """The API of a plan's cluster, and its kubeconfig."""

    def __init__(self, directory: Path, plan: Plan = PLAN) -> None:
        self.port = free_port()
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_bytes(kubeconfig(f"http://127.0.0.1:{self.port}", "t"))
        self._start = directory / "api.json"
        self._start.write_bytes(msgspec.json.encode(ApiStart(self.port, "t", list(objects(plan, AT)))))
        self._process: Forked | None = None

    def start(self) -> None:
        words = ["tests.support.lab.faulty_api", str(self._start)]
        self._process = Forked(words, ROOT, Path(os.devnull), self._start.with_suffix(".log"))
        eventually(self._answers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def put(self, found: Pod, at: datetime | None = None, **status: Any) -> None:
        """Put a pod that started at `at`, or just now; `status` overrides."""
        body = pod_object(PLAN, found, at or datetime.now(UTC))
        body["status"] |= status
        self._call("PUT", f"pods/{found.namespace}/{found.name}", body)

    def delete(self, found: Pod) -> None:
        self._call("DELETE", f"pods/{found.namespace}/{found.name}")

    def relabel(self, node: str, zone: str, at: datetime) -> None:
        """Move a node to another zone; the object says that it changed at `at`."""
        body = node_object(PLAN, PLAN.node(node), AT)
        body["metadata"]["labels"]["topology.kubernetes.io/zone"] = zone
        body["metadata"]["managedFields"][0]["time"] = rfc3339(at)
        self._call("PUT", f"nodes/{node}", body)

    def select(self, service: str, selector: dict[str, str]) -> None:
        """Give a service another selector."""
        found = next(each for each in PLAN.services if each.name == service)
        body = service_object(PLAN, found, AT)
        body["spec"]["selector"] = selector
        body["metadata"]["managedFields"][0]["time"] = rfc3339(datetime.now(UTC))
        self._call("PUT", f"services/{found.namespace}/{found.name}", body)

    def label(self, namespace: str, labels: dict[str, str]) -> None:
        """Make a namespace, or give it these labels."""
        metadata = {"name": namespace, "uid": f"ns-{namespace}", "labels": labels}
        self._call("PUT", f"namespaces/{namespace}", {"metadata": metadata})

    def begin_fault(self, name: str) -> None:
        """Misbehave in one of the ways that tests/support/lab/kube_faults.py names."""
        self._call("PUT", f"faults/{name}")

    def heal(self) -> None:
        """End all faults."""
        self._call("DELETE", "faults")

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5).close()
        except OSError:
            return False
        return True

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        content = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}/lab/{path}"
        request = urllib.request.Request(url, content, {"Authorization": "Bearer t"}, method=method)
        urllib.request.urlopen(request, timeout=DEADLINE_SECONDS).close()


@contextlib.contextmanager
def api_at(directory: Path, plan: Plan = PLAN) -> Iterator[Api]:
    made = Api(directory, plan)
    try:
        yield made
    finally:
        made.stop()
