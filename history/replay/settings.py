# SPDX-License-Identifier: Apache-2.0
"""Settings of `zonemeter replay`."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from common.settings import SHORTCUTS
from history.range_settings import RangeSettings
from history.read.rejoin import JoinSettings
from schemas.flow import MAX_ATTRIBUTION_VERSION


class ReplaySettings(RangeSettings, JoinSettings):
    """Print, write or publish the flows of a time range again; with --from-raw, attributed again as of their time."""

    model_config = SettingsConfigDict(cli_shortcuts={**SHORTCUTS, "file": "f"})

    from_raw: bool = Field(False, description="read the raw topic and join it again with who owned which address then")
    cidr_map: Path | None = Field(None, description="with --from-raw: the CIDR map to join with, TOML or JSON")
    attribution_version: int | None = Field(
        None,
        ge=1,
        le=MAX_ATTRIBUTION_VERSION,
        description="with --from-raw: write this number into each flow, to tell it from the recorded one of its id",
    )
    output: Literal["table", "json", "jsonl", "csv", "parquet"] = Field(
        "table", description="how to write the flows; json and jsonl are one object a line"
    )
    sum: bool = Field(False, description="print only totals by scope; as table, json, jsonl or csv")
    file: Path | None = Field(None, description="write to this file instead of stdout; it appears when it is whole")
    to_topic: str | None = Field(
        None, pattern=r"^[a-zA-Z0-9._-]{1,249}$", description="publish to this topic instead; made if missing"
    )
    top: int = Field(30, ge=1, description="how many of the largest flows, or differences, the table shows")
    diff: bool = Field(
        False, description="with --from-raw: say what differs from what was recorded, by how many bytes, and why"
    )
    prices: str | None = Field(None, description="with --diff: aws, azure, gcp or a file: what the traffic costs")
    prices_before: str | None = Field(
        None, description="with --diff and --prices: the price file for what was recorded, if it differs"
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        self._check_diff()
        if self.archive is not None and self.from_raw:
            raise ValueError("archive and from_raw contradict each other: the archive holds no raw flows")
        # Not so the CIDR map: where an enricher runs it may be a variable, for every command.
        if not self.from_raw and self.topology is not None:
            raise ValueError("topology only means something with --from-raw")
        if self.attribution_version is not None:
            self._check_attribution()
        if self.to_topic is not None and (self.file is not None or self.output != "table"):
            raise ValueError("to_topic excludes file and output: a topic takes the flows' own JSON")
        if self.sum and (self.to_topic is not None or self.file is not None or self.output == "parquet"):
            raise ValueError("sum excludes to_topic, file and output = parquet: it prints a few lines")
        if self.output == "table" and self.file is not None:
            raise ValueError("file needs --output jsonl, csv or parquet")
        if self.to_topic in self.topics.all:
            raise ValueError(f"to_topic = {self.to_topic!r} is a topic of the pipeline: its readers would count twice")
        return self

    def _check_attribution(self) -> None:
        if not self.from_raw:
            raise ValueError("attribution_version needs --from-raw: without it flows are as they were recorded")
        if self.diff or self.sum or (self.output == "table" and self.to_topic is None):
            raise ValueError("attribution_version needs --output jsonl, csv or parquet, or --to-topic: it is a column")

    def _check_diff(self) -> None:
        if not self.diff:
            if self.prices is not None or self.prices_before is not None:
                raise ValueError("prices and prices_before only mean something with --diff")
            return
        if not self.from_raw:
            raise ValueError("diff needs --from-raw: it compares what was recorded with what is joined again")
        if self.sum or self.to_topic is not None or self.file is not None or self.output == "parquet":
            raise ValueError("diff excludes sum, to_topic, file and output = parquet: it prints what differs")
        if self.prices_before is not None and self.prices is None:
            raise ValueError("prices_before needs --prices: what is joined again has no price")
