# SPDX-License-Identifier: Apache-2.0
"""What commands are asked alike: a time range; of flows, also a cluster, namespaces, an archive."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from common.settings import KafkaSettings
from common.terminal import complain
from replay.time_range import Instant, Since, TimeRange, names_no_zone, parse_range

SPAN_SHORTCUTS = {"from-time": "from", "to-time": "to", "output": "o"}
SHORTCUTS = {**SPAN_SHORTCUTS, "namespace": "n", "all-namespaces": "A"}


def _split(value: Any) -> Any:
    texts = value if isinstance(value, list) else [value]
    parts = [part.strip() for text in texts for part in (text.split(",") if isinstance(text, str) else [text])]
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
        """Return the range; raise `ValueError` where the settings contradict each other.

        Says on stderr what was read as UTC because it names no zone.
        """
        given = {"--since": self.since, "--from": self.from_time, "--to": self.to_time}
        span = parse_range(self.since if self.since or self.from_time else since, self.from_time, self.to_time, now_ms)
        if bare := [f"{flag} {text}" for flag, text in given.items() if text and names_no_zone(text)]:
            complain(f"{prog}: {', '.join(bare)} names no zone and is read as UTC; the range is {span}")
        return span


class RangeSettings(SpanSettings):
    """A time range of flows."""

    cluster: Words = Field([], description="only these clusters, comma-separated")
    namespace: Words = Field([], description="only flows from or to these namespaces, comma-separated")
    all_namespaces: bool = Field(False, description="all namespaces, which is the default")
    archive: str | None = Field(
        None,
        min_length=1,
        description="directory or URI of the Parquet flow log to read, beside or instead of the topic",
    )

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.all_namespaces and self.namespace:
            raise ValueError("namespace (-n) and all_namespaces (-A) contradict each other; give one")
        return self
