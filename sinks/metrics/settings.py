# SPDX-License-Identifier: Apache-2.0
"""Settings of the metrics sink."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from common.settings import HostPort, IdPart, ServiceSettings, listen_on


class MetricsSettings(ServiceSettings):
    """Counts enriched flows by zones and by workloads and serves the counters to Prometheus."""

    listen: HostPort = listen_on(9464)
    state_dir: Path = Field(
        Path("/var/lib/zonemeter/metrics"),
        description="directory of the checkpoint: counters and positions; if it is lost, counters begin at 0",
    )
    group: IdPart | None = Field(
        None, description="Kafka group under which positions are committed; default: topic prefix + metrics"
    )
    replicas: int = Field(1, ge=1, le=1000, description="how many metrics sinks share the partitions")
    replica_ordinal: int = Field(
        0, ge=0, description="which of them this is: it takes the partitions p with p mod replicas = it"
    )
    max_series: int = Field(
        20_000, ge=0, description="series of the workload metric before further pairs are added up in _other_"
    )
    series_idle_hours: float = Field(
        24.0, ge=0.1, le=8760, description="how long to serve a series that does not grow; then its labels are dropped"
    )
    kubezonnet_metric: bool = Field(
        True, description="whether to serve pod_cross_zone_network_traffic_bytes_total, as kubezonnet does"
    )
    kubezonnet_max_series: int = Field(20_000, ge=0, description="series of that metric before pods go to _other_")
    opencost_max_series: int = Field(
        0,
        ge=0,
        description="series of kubecost_pod_network_egress_bytes_total, OpenCost's, before pods go to _other_; "
        "0: it is not served",
    )
    checkpoint_seconds: float = Field(
        1.0, gt=0, le=60, description="time between checkpoints while flows come in; served values are at most this old"
    )
    prices: str | None = Field(
        None,
        description="aws, azure, gcp or a price file in USD: serves cost metrics too; without it there are none",
    )
    silent_after_seconds: float = Field(
        30.0, gt=0, description="age of a node's last window beyond which the node counts as silent"
    )

    @property
    def group_id(self) -> str:
        """The group; it assigns no partitions, it only tells replicas how far the others got."""
        return self.group or f"{self.topic_prefix}metrics"

    @model_validator(mode="after")
    def _ordinal_exists(self) -> Self:
        if self.replica_ordinal >= self.replicas:
            raise ValueError(
                f"replica_ordinal = {self.replica_ordinal}: expected less than replicas, which is {self.replicas}"
            )
        if self.replicas > self.partitions:
            raise ValueError(
                f"replicas = {self.replicas}: expected at most one per partition, and partitions is {self.partitions}"
            )
        return self
