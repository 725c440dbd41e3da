# SPDX-License-Identifier: Apache-2.0
"""An end in another cluster is never taken for what has its name here: not by rows, labels, filters and sums."""

from typing import Any

import pytest

from history.model.filters import Selection
from schemas.flow import Endpoint, Kubernetes, Named, Workload, told_apart
from sinks.flowlog.rows.columns import END_COLUMNS, flatten
from sinks.metrics.ends import Ends
from tests.support.history.rows import summed
from tests.support.sinks.flows import flow


def pod(cluster: str | None) -> Endpoint:
    k8s = Kubernetes(
        namespace=Named("shop"),
        pod=Named("api-0"),
        workload=Workload("Deployment", "api"),
        node=Named("node-a1"),
        **({"cluster": Named(cluster)} if cluster else {}),
    )
    return Endpoint(kind="pod", address="10.0.1.1", k8s=k8s)


NODE = Endpoint(kind="node", address="10.0.1.2", k8s=Kubernetes(node=Named("node-a1"), cluster=Named("us")))


def test_in_rows_and_labels_the_cluster_comes_before_namespace_and_node() -> None:
    row = dict(zip(END_COLUMNS, flatten(pod("us")).values, strict=True))
    assert (row["namespace"], row["node"], row["pod"]) == ("us/shop", "us/node-a1", "api-0")
    end, same = Ends().make(pod("us")), Ends().make(pod(None))
    assert (end.namespace, end.pod_namespace, same.namespace) == ("us/shop", "us/shop", "shop")
    assert Ends().make(NODE).workload == "us/node-a1"
    assert told_apart(pod(None)) == pod(None)
    assert told_apart(Endpoint(kind="external", address="8.8.8.8")).kind == "external"


@pytest.mark.parametrize(
    ("filters", "there", "here"),
    [
        ({"workloads": ["us/shop/Deployment/api"]}, 1, 0),
        ({"workloads": ["us/shop/api"]}, 1, 0),
        ({"workloads": ["shop/api"]}, 0, 1),
        ({"namespaces": ["us/shop"]}, 1, 0),
        ({"namespaces": ["shop"]}, 0, 1),
        ({"pods": ["us/shop/api-0"]}, 1, 0),
        ({"pods": ["shop/api-0"]}, 0, 1),
        ({"destinations": ["us/shop/Deployment/api"]}, 1, 0),
        ({"workloads": ["node/us/node-a1"]}, 1, 0),
    ],
)
def test_filters_take_what_tables_print(filters: dict[str, Any], there: int, here: int) -> None:
    def found(end: Endpoint) -> int:
        return summed([flow(source=end, destination=end)], selection=Selection(**filters)).flows

    far, near = (NODE, pod(None)) if "node" in str(filters) else (pod("us"), pod(None))
    assert (found(far), found(near)) == (there, here)


def test_sums_by_cluster_are_of_the_ends() -> None:
    outside = Endpoint(kind="external", address="8.8.8.8")
    flows = [flow(source=pod(None), destination=pod("us")), flow(source=NODE, destination=outside)]
    own = flows[0].k8s.cluster.name
    assert {traffic.groups for traffic in summed(flows, by="cluster").traffic} == {(own, "us"), ("us", "")}
