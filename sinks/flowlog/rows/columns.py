# SPDX-License-Identifier: Apache-2.0
"""The flow log's columns: a flow flattened, the same names in Parquet and in JSON lines. Pure.

What is unknown is null in Parquet and left out in JSON lines. `window_start` and `window_end` are timestamps (UTC,
milliseconds), the window is [start, end). `raw_partition` and `raw_offset` say where the raw chunk stood. What each
column means: schemas/flowlog.v1.schema.json.
"""

import sys
from dataclasses import dataclass, field

import orjson
from msgspec import UNSET, UnsetType

from schemas.flow import Cloud, Endpoint, Kubernetes, Named, Workload, told_apart

END_COLUMNS = (
    "kind",
    "address",
    "port",
    "namespace",
    "pod",
    "workload_kind",
    "workload",
    "service",
    "node",
    "zone",
    "region",
    "zone_id",
    "name",
    "reason",
)
COLUMNS = (
    "id",
    "window_start",
    "window_end",
    "scope",
    "direction",
    "bytes",
    "packets",
    "dnat",
    "encapsulation",
    "transport",
    "network_type",
    *(f"src_{name}" for name in END_COLUMNS),
    *(f"dst_{name}" for name in END_COLUMNS),
    "observer_node",
    "observer_zone",
    "cluster",
    "raw_partition",
    "raw_offset",
    "server",
    "attribution_version",
)

Value = str | int | None


@dataclass(frozen=True, slots=True, eq=False)
class FlatEnd:
    """One end of a flow: its values in the order of `END_COLUMNS`, and the same as part of a JSON object."""

    values: tuple[Value, ...]
    as_source: str = field(repr=False)
    as_destination: str = field(repr=False)

    def __sizeof__(self) -> int:
        """Return what it takes in memory, with all that it refers to."""
        held = sys.getsizeof(self.as_source) + sys.getsizeof(self.as_destination) + sys.getsizeof(self.values)
        return object.__sizeof__(self) + held + sum(map(sys.getsizeof, filter(None, self.values)))


def flatten(endpoint: Endpoint) -> FlatEnd:
    """Flatten one end of a flow."""
    values = _values(endpoint)
    return FlatEnd(values, _fragment("src_", values), _fragment("dst_", values))


def flatten_values(endpoint: Endpoint) -> FlatEnd:
    """Flatten one end of a flow for a writer that does not want it as JSON, which would double its memory."""
    return FlatEnd(_values(endpoint), "", "")


def _values(endpoint: Endpoint) -> tuple[Value, ...]:
    endpoint = told_apart(endpoint)
    k8s = Kubernetes() if endpoint.k8s is UNSET else endpoint.k8s
    cloud = Cloud() if endpoint.cloud is UNSET else endpoint.cloud
    workload = Workload("", "") if k8s.workload is UNSET else k8s.workload
    return (
        endpoint.kind,
        text(endpoint.address),
        None if endpoint.port is UNSET else endpoint.port,
        _name(k8s.namespace),
        _name(k8s.pod),
        workload.kind or None,
        workload.name or None,
        _name(k8s.service),
        _name(k8s.node),
        text(cloud.availability_zone),
        text(cloud.region),
        text(cloud.zone_id),
        text(endpoint.name),
        text(endpoint.reason),
    )


def text(value: str | UnsetType) -> str | None:
    """Return a value, None where it is absent."""
    return None if value is UNSET else value


def _name(value: Named | UnsetType) -> str | None:
    return None if value is UNSET else value.name


def _fragment(prefix: str, values: tuple[Value, ...]) -> str:
    named = {prefix + name: value for name, value in zip(END_COLUMNS, values, strict=True) if value is not None}
    return orjson.dumps(named).decode()[1:-1]
