# SPDX-License-Identifier: Apache-2.0
"""Reads a pod into its state: who it is, and between which moments it had its addresses. Pure."""

from enricher.kube.states.fields import interned, latest, milliseconds
from enricher.kube.states.objects import ContainerState, ContainerStatus, Pod, PodStatus
from enricher.kube.states.workloads import can_be, controller_of, workload_of
from schemas.topology import TopologyState

FINISHED = ("Succeeded", "Failed")
# Conditions that hold only once the pod's sandbox, and with it its address, is there (core/v1, PodConditionType).
ADDRESSED = ("PodReadyToStartContainers", "ContainersReady", "Ready")


def pod_state(pod: Pod, seen_ms: int, *, deleted: bool = False) -> TopologyState | None:
    """Return a pod's state, `from_ms` as of its start; None while it has no address.

    It got its address after its start and before anything ran in its sandbox, or we saw it. In a finished phase it
    gave the address back when its last container ended, or when we saw it so; `deleted`: also in any other phase,
    if all its containers have ended. The kubelet's times are whole seconds, cut off: what one tells may have
    happened up to a second later. They are by the clock of the node, which measures the flows, and so stand as they
    are, whatever ours says.
    """
    status, meta = pod.status, pod.metadata
    addresses = [ip.ip for ip in status.pod_ips or () if ip.ip] or ([status.pod_ip] if status.pod_ip else [])
    if not addresses:
        return None
    from_ms = milliseconds(status.start_time) or milliseconds(meta.creation_timestamp) or seen_ms
    by_ms = max(_addressed_by(status, seen_ms), from_ms)
    ended = _ended(status) if status.phase in FINISHED or deleted else None
    to_ms = None if ended is None else latest(ended)
    if to_ms is None and status.phase in FINISHED:
        to_ms = seen_ms
    return TopologyState(
        kind="pod",
        uid=meta.uid,
        resource_version=meta.resource_version,
        name=meta.name,
        namespace=interned(meta.namespace),
        addresses=addresses,
        from_ms=from_ms,
        to_ms=None if to_ms is None else max(to_ms, from_ms),
        acquired_by_ms=None if by_ms == from_ms else by_ms,
        released_from_ms=milliseconds(ended),
        node=interned(pod.spec.node_name),
        host_network=bool(pod.spec.host_network),
        workload=workload_of(pod),
        ready=any(c.type == "Ready" and c.status == "True" for c in status.conditions or ()),
    )


def left_out(pod: Pod) -> list[str]:
    """Return what is left out of a pod's state because no object can have it: `owner`."""
    owner = controller_of(pod.metadata)
    return ["owner"] if owner is not None and not can_be(owner) else []


def _addressed_by(status: PodStatus, seen_ms: int) -> int:
    """Return when a pod surely had its address: the first sign of life within its sandbox, else when we saw it.

    Earlier lives of a container do not count: they may have been in an earlier sandbox, which had another address.
    """
    signs = [c.last_transition_time for c in status.conditions or () if c.type in ADDRESSED and c.status == "True"]
    for container in _containers(status):
        if container.state and container.state.running:
            signs.append(container.state.running.started_at)
        elif container.state and container.state.terminated:
            signs.append(container.state.terminated.started_at)
    return min((time for sign in signs if (time := latest(sign)) is not None), default=seen_ms)


def _ended(status: PodStatus) -> str | None:
    """Return the end of the last container; None if one still runs, or none says when it ended."""
    stamps: list[str | None] = []
    for container in _containers(status):
        now, before = container.state or ContainerState(), container.last_state or ContainerState()
        if now.running:
            return None
        if now.terminated or before.terminated:
            stamps.append((now.terminated or before.terminated).finished_at)  # type: ignore[union-attr]
    times = [(time, stamp) for stamp in stamps if (time := milliseconds(stamp)) is not None]
    return max(times)[1] if times else None


def _containers(status: PodStatus) -> list[ContainerStatus]:
    return [*(status.container_statuses or ()), *(status.init_container_statuses or ())]
