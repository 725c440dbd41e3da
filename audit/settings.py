# SPDX-License-Identifier: Apache-2.0
"""Settings of the audit's service."""

from pydantic import Field

from common.settings import HostPort, ServiceSettings, listen_on


class AuditServiceSettings(ServiceSettings):
    """Reconciles the ledger all the time and serves the result as metrics; keeps nothing on disk."""

    listen: HostPort = listen_on(9466)
    span_minutes: int = Field(
        60, ge=2, le=10_080, description="how far back the served figures look; read again from Kafka after a restart"
    )
    settle_seconds: float = Field(
        90.0,
        ge=0,
        le=3600,
        description="a window that has not arrived is in flight while younger than this, then late",
    )
    max_open_windows: int = Field(
        250_000,
        ge=1000,
        description="windows kept because they are not closed, 1 kB each; beyond it the oldest is given up. A node has "
        "one in ten seconds, and those of --cut-seconds wait for the flow log: the default is for 5,000 nodes",
    )
    max_clusters: int = Field(
        100, ge=1, description="clusters whose books are kept; what others send is counted as cluster _other_"
    )
    max_strangers: int = Field(
        2_000,
        ge=0,
        description="nodes, of all clusters, whose books are kept although Kubernetes does not know them",
    )
    check_seconds: float = Field(10.0, gt=0, le=600, description="time between two reconciliations")
