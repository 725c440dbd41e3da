# SPDX-License-Identifier: Apache-2.0
"""Settings of the flow log."""

from typing import Literal, Self

from pydantic import Field, model_validator

from common.input.locations import Location
from common.settings import HostPort, IdPart, ServiceSettings, listen_on
from schemas.flow import MAX_ATTRIBUTION_VERSION

STDOUT = "-"
# Of rows held back, over all partitions; beyond it some are written before their time. Their ends are the intake's.
MAX_HELD_BYTES = 256 * 1024 * 1024


class FlowlogSettings(ServiceSettings):
    """Writes enriched flows, one row each, as JSON lines or Parquet; no row twice, none missing."""

    listen: HostPort = listen_on(9465)
    output: Location = Field(
        "/var/lib/zonemeter/flowlog",
        min_length=1,
        description="directory, URI of an object store (s3://bucket/path), or - for stdout; replicas share it",
    )
    format: Literal["jsonl", "parquet"] = Field("parquet", description="what the files are; stdout takes only jsonl")
    group: IdPart | None = Field(
        None,
        description="Kafka group that shares the partitions out among replicas; default: topic prefix + flowlog, "
        "of an --attribution-version + flowlog-attribution-N",
    )
    group_instance_id: IdPart | None = Field(
        None, description="this replica's fixed name in the group: a restart within the session then moves nothing"
    )
    session_timeout_seconds: float = Field(
        30.0, ge=6, le=300, description="silence after which the group gives this replica's partitions to others"
    )
    cut_rows: int = Field(
        1_000_000, ge=1, description="rows held back, over all partitions, at which the fullest partition is written"
    )
    cut_seconds: float = Field(
        300.0, gt=0, le=86_400, description="longest that a row is held back before it is written: fewer, larger files"
    )

    attribution_version: int = Field(
        0,
        ge=0,
        le=MAX_ATTRIBUTION_VERSION,
        description="take flows of this attribution only, 0: as recorded; others become dead letters",
    )

    @property
    def group_id(self) -> str:
        """The group. Not one for several prefixes: Kafka would give a fixed member the other topic's partitions.

        Nor for several attributions: each would refuse the flows of the other in the partitions that it gets, and
        commit.
        """
        of = f"-attribution-{self.attribution_version}" if self.attribution_version else ""
        return self.group or f"{self.topic_prefix}flowlog{of}"

    def is_full(self, rows: int, held_bytes: int) -> bool:
        """Return whether so much is held back that some must be written before its time."""
        return rows >= self.cut_rows or held_bytes >= MAX_HELD_BYTES

    @model_validator(mode="after")
    def _stdout_takes_lines(self) -> Self:
        if self.output == STDOUT and self.format != "jsonl":
            raise ValueError(f"output = '-' and format = {self.format!r}: stdout takes only --format jsonl")
        return self
