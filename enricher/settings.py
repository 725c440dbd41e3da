# SPDX-License-Identifier: Apache-2.0
"""Settings of the enricher."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from common.input.clusters import OtherClusters, other_clusters
from common.input.kube_labels import label_names
from common.settings import HostPort, ServiceSettings, listen_on
from enricher.join.policy import UNMETERED, Policy, policy_of


class EnricherSettings(ServiceSettings):
    """Names both ends of every flow, as of its own time."""

    listen: HostPort = listen_on(9461)
    group: str | None = Field(
        None, min_length=1, description="the Kafka consumer group; default: topic prefix + enricher"
    )
    group_instance_id: str | None = Field(
        None, description="a name that outlives restarts, such as the pod's: a restart then moves no partition"
    )
    session_seconds: float = Field(
        10.0, ge=1, le=300, description="how long the group waits for a silent member before its partitions move"
    )
    topology: Path | None = Field(
        None, description="a JSON file of topology states to join with, instead of a Kubernetes API"
    )
    kube: Literal["auto", "in-cluster", "kubeconfig"] = Field(
        "auto", description="where the Kubernetes API is found; auto: --kubeconfig, else the pod's own, else kubectl's"
    )
    kubeconfig: Path | None = Field(None, description="kubeconfig file; without it the usual places")
    kube_services: bool = Field(
        True, description="watch services too: names of ClusterIPs, and which services select a pod"
    )
    kube_endpoint_slices: bool = Field(
        False, description="watch EndpointSlices too: whether zonemeter advise knows if end points have hints"
    )
    namespace_labels: str = Field(
        "",
        description="labels of namespaces to keep the history of, comma-separated, such as team,cost-center, for "
        "zonemeter report --by label:team; namespaces are watched then, too",
    )
    kube_silence_seconds: float = Field(
        120.0,
        ge=1,
        le=3600,
        description="after this long without any message from a watch, not even a bookmark, list everything again; "
        "the API server sends a bookmark about every minute",
    )
    cidr_map: Path | None = Field(
        None, description="TOML or JSON file of networks outside the cluster with their names and zones"
    )
    other_clusters: OtherClusters = Field(
        "",
        description="other clusters on this Kafka, NAME=TOPIC_PREFIX, comma-separated: their pods and nodes are "
        "named; what they send is counted in their own cluster",
    )
    unmetered_nodes: str = Field(
        UNMETERED,
        description="names of nodes that have no collector, patterns, comma-separated: what their pods send is counted "
        'where it is received; "" for none; of another cluster: CLUSTER/NODE',
    )
    detail: Literal["pod", "workload"] = Field(
        "pod",
        description="workload: flows within a node or a zone, which cost nothing, are summed up by workload, "
        "window and port; all others stay as they are",
    )
    history_hours: float = Field(
        168.0, gt=0, description="how long an owner is remembered after its end; at least the raw topic's retention"
    )
    index_max_states: int = Field(
        400_000,
        ge=1000,
        description="states of pods, nodes and services kept in memory, 1.6 kB each; beyond it the longest ended are "
        "forgotten early",
    )
    late_seconds: float = Field(
        2.0, ge=0, le=60, description="how long after its window's end a chunk waits for a pod not known yet"
    )
    batch_rows: int = Field(
        5000, ge=1, le=1_000_000, description="flows of one partition published and committed together, about"
    )

    @property
    def group_id(self) -> str:
        """The consumer group: pipelines with topics of their own must not rebalance each other."""
        return self.group or f"{self.topic_prefix}enricher"

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels of namespaces that are kept."""
        return label_names(self.namespace_labels)

    @field_validator("namespace_labels")
    @classmethod
    def _names_labels(cls, text: str) -> str:
        label_names(text)
        return text

    @property
    def prefixes(self) -> dict[str, str]:
        """The topic prefixes of the other clusters, by their names."""
        return other_clusters(self.other_clusters, self.topic_prefix, self.cluster)

    @property
    def policy(self) -> Policy:
        """How to join."""
        return policy_of(self.unmetered_nodes, self.detail)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.topology is not None and (self.kubeconfig is not None or self.kube != "auto"):
            raise ValueError("topology and kube or kubeconfig are both set: join with a file or with an API, not both")
        if self.kube == "in-cluster" and self.kubeconfig is not None:
            raise ValueError("kubeconfig is set but kube = in-cluster does not read it; leave one of them out")
        return self
