# SPDX-License-Identifier: Apache-2.0
"""What the workers of a process share."""

from dataclasses import dataclass

from common.kafka.partitions import Partitions
from common.kafka.publish import PublishCounters
from common.service.running import Service
from enricher.delivery.incoming.admission import Nodes
from enricher.delivery.incoming.waiting import LateSenders
from enricher.join.policy import Policy
from enricher.kube.cluster import ClusterView
from enricher.metrics import EnricherMetrics
from enricher.settings import EnricherSettings


@dataclass(slots=True)
class Deps:
    """Made by `main`, one for each process."""

    service: Service
    settings: EnricherSettings
    policy: Policy
    cluster: ClusterView
    patience: LateSenders
    publish_counters: PublishCounters
    partitions: Partitions
    metrics: EnricherMetrics
    nodes: Nodes
