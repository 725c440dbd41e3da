# SPDX-License-Identifier: Apache-2.0
"""What commands are asked alike: a time range; of flows also where they are, which are wanted, and what they cost."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ByteSize, Field, model_validator
from pydantic_settings import NoDecode

from common.errors import Refusal
from common.input.locations import Location
from common.input.sizes import Size
from common.settings import HostPorts, KafkaSettings
from common.terminal import complain
from history.model.filters import FILTERS, Selection
from history.model.time_range import Instant, Since, TimeRange, names_no_zone, parse_range
from prices.file import SHIPPED, load_prices

NO_PRICES = "none"


def _split(value: Any) -> Any:
    texts = value if isinstance(value, list) else [value]
    words = [part for text in texts for part in (text.split(",") if isinstance(text, str) else [text])]
    parts = [part.strip() if isinstance(part, str) else part for part in words]
    if "" in parts or None in parts:  # -n "$NAMESPACE" where that is not set: it would mean what is in no namespace
        raise ValueError("an empty name; expected NAME[,NAME...]")
    return parts


Words = Annotated[list[str], NoDecode, BeforeValidator(_split)]
Numbers = Annotated[list[int], NoDecode, BeforeValidator(_split)]


class SpanSettings(KafkaSettings):
    """A time range."""

    since: Since | None = Field(
        None, description="how far back, such as 15m or 24h, or since when, such as yesterday (default: 1h)"
    )
    from_time: Instant | None = Field(
        None, description="start: a time, now-1h, '2 hours ago', today, yesterday; without a zone: UTC"
    )
    to_time: Instant | None = Field(None, description="end, in the same forms; now is the default")

    def span(self, prog: str, now_ms: int, since: str = "1h") -> TimeRange:
        """Return the range; raise `Refusal` where the settings contradict each other.

        Says on stderr what was read as UTC because it names no zone.
        """
        given = {"--since": self.since, "--from": self.from_time, "--to": self.to_time}
        begin = self.since if self.since or self.from_time else since
        try:
            span = parse_range(begin, self.from_time, self.to_time, now_ms)
        except ValueError as error:
            raise Refusal(str(error)) from error
        if bare := [f"{flag} {text}" for flag, text in given.items() if text and names_no_zone(text)]:
            complain(f"{prog}: {', '.join(bare)} names no zone and is read as UTC; the range is {span}")
        return span


class FlowSettings(SpanSettings):
    """A time range of flows, and where they are read."""

    archive: Location | None = Field(
        None,
        min_length=1,
        description="directory or URI of the Parquet flow log to read, beside or instead of the topic",
    )
    cluster: Words = Field([], description="only these clusters, comma-separated")


class RangeSettings(FlowSettings):
    """A time range of flows, and which of them are wanted."""

    namespace: Words = Field([], description="only flows from or to these namespaces, comma-separated")
    all_namespaces: bool = Field(False, description="all namespaces, which is the default")
    workload: Words = Field(
        [],
        description="only from or to: name, Kind/name, namespace/name or namespace/Kind/name, "
        "or as a table prints it, such as node/node-a1 or cidr/orders-db; of another cluster CLUSTER/namespace/...",
    )
    pod: Words = Field([], description="only from or to: name or namespace/name")
    address: Words = Field([], description="only from or to these addresses or CIDRs")
    zone: Words = Field([], description="only from or to these zones")
    source: Words = Field([], description="only from these: what --workload, --pod or --address takes")
    destination: Words = Field([], description="only to these: what --workload, --pod or --address takes")
    scope: Words = Field([], description="same_node, same_zone, cross_zone, cross_region, external, unknown")
    direction: Words = Field([], description="egress, ingress, relay: as the node that counted saw it")
    port: Numbers = Field([], description="only with one of these ports on either side")
    min_bytes: Size = Field(
        ByteSize(0), ge=0, le=2**63 - 1, description="only flows of at least so many bytes in their window, such as 1MB"
    )

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.all_namespaces and self.namespace:
            raise ValueError("namespace (-n) and all_namespaces (-A) contradict each other; give one")
        return self

    def selection(self) -> Selection:
        """Return the filters; raises `Refusal`."""
        asked: dict[str, Any] = {field: getattr(self, name) for name, field in FILTERS.items()}
        try:
            return Selection(**asked, min_bytes=self.min_bytes)
        except ValueError as error:
            raise Refusal(str(error)) from error


class PricedSettings(RangeSettings):
    """A time range of flows, what they cost, and what of them is the meter's own."""

    prices: str | None = Field(
        None, description="aws, azure, gcp, a file, or none; else the cloud that names its zones as these are named"
    )
    own_namespace: str = Field("zonemeter", description="the namespace whose traffic is the meter's own")
    own_kafka: HostPorts | None = Field(
        None, description="Kafka as the collectors reach it, to tell their traffic; else as Kafka calls itself"
    )
    rollups: bool = Field(
        True, description="with --archive: read rollups instead of flows where they give the same answer"
    )

    def check(self) -> None:
        """Raise `Refusal` for filters and prices that are wrong in themselves, before anything is read."""
        if self.prices not in (None, NO_PRICES, *SHIPPED):
            load_prices(str(self.prices))
        self.selection()


class EvidenceSettings(PricedSettings):
    """A time range of flows with its topology."""

    topology: Path | None = Field(None, description="a file of states instead of the topology topic")
