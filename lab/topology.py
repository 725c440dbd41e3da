# SPDX-License-Identifier: Apache-2.0
"""The cluster as files: a static topology (`--topology FILE`) of what the lab's API serves, and a CIDR map. Pure."""

import ipaddress
from datetime import datetime

from lab.kube.objects import objects
from lab.kube.store import Object
from lab.plan import Plan
from schemas.flow import Workload
from schemas.topology import TopologyState


def states(plan: Plan, at: datetime, first_version: int = 1001) -> list[TopologyState]:
    """Return one open state per object, from `at` on, with the resourceVersions of a store filled in that order."""
    made = []
    for version, (resource, body) in enumerate(objects(plan, at), start=first_version):
        state = {"nodes": _node, "services": _service, "pods": _pod}[resource](plan, body, str(version), at)
        made.append(state)
    return made


def cidr_map(plan: Plan) -> dict[str, list[dict[str, str]]]:
    """Return the user's CIDR map for the plan: its managed services and Kafka, each in its zone."""
    first = plan.nodes[0]
    region_of = {node.zone: node.region for node in plan.nodes}
    entries = [{"cidr": f"{plan.control_v4}/32", "name": "kafka", "zone": first.zone, "region": first.region}]
    for outside in plan.outsides:
        if outside.zone:
            where = {"name": outside.name, "zone": outside.zone, "region": region_of[outside.zone]}
            entries += [{"cidr": cidr} | where for cidr in (outside.cidr_v4, outside.cidr_v6)]
    return {"cidr": entries}


def _node(_: Plan, body: Object, version: str, at: datetime) -> TopologyState:
    labels, status = body["metadata"]["labels"], body["status"]
    return TopologyState(
        kind="node",
        uid=body["metadata"]["uid"],
        resource_version=version,
        name=body["metadata"]["name"],
        addresses=[entry["address"] for entry in status["addresses"] if _is_address(entry["address"])],
        from_ms=_milliseconds(at),
        zone=labels["topology.kubernetes.io/zone"],
        region=labels["topology.kubernetes.io/region"],
        pod_cidrs=body["spec"]["podCIDRs"],
    )


def _service(_: Plan, body: Object, version: str, at: datetime) -> TopologyState:
    return TopologyState(
        kind="service",
        uid=body["metadata"]["uid"],
        resource_version=version,
        name=body["metadata"]["name"],
        namespace=body["metadata"]["namespace"],
        addresses=body["spec"]["clusterIPs"],
        from_ms=_milliseconds(at),
    )


def _pod(plan: Plan, body: Object, version: str, at: datetime) -> TopologyState:
    metadata = body["metadata"]
    pod = next(pod for pod in plan.pods if (pod.namespace, pod.name) == (metadata["namespace"], metadata["name"]))
    return TopologyState(
        kind="pod",
        uid=metadata["uid"],
        resource_version=version,
        name=pod.name,
        namespace=pod.namespace,
        addresses=[pod.address_v4, pod.address_v6],
        from_ms=_milliseconds(at),
        node=pod.node,
        host_network=pod.workload.host_network,
        workload=Workload(kind=pod.workload.kind, name=pod.workload.name),
        ready=True,
        services=[service.name for service in plan.services if service.workload == pod.workload.key],
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp()) * 1000
