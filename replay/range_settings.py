# SPDX-License-Identifier: Apache-2.0
"""What `report` and `replay` are asked alike: a time range, a cluster, namespaces, an archive."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from common.settings import KafkaSettings

SHORTCUTS = {
    "from-time": "from",
    "to-time": "to",
    "output": "o",
    "namespace": "n",
    "all-namespaces": "A",
}


def _split(value: Any) -> Any:
    texts = [value] if isinstance(value, str) else value
    parts = [part.strip() for text in texts for part in (text.split(",") if isinstance(text, str) else [text])]
    if "" in parts:  # -n "$NAMESPACE" where that is not set: it would mean what is in no namespace
        raise ValueError("an empty name; expected NAME[,NAME...]")
    return parts


Words = Annotated[list[str], NoDecode, BeforeValidator(_split)]
Numbers = Annotated[list[int], NoDecode, BeforeValidator(_split)]


class RangeSettings(KafkaSettings):
    """A time range of flows."""

    since: str | None = Field(None, description="how far back, such as 15m or 24h (default: 1h)")
    from_time: str | None = Field(None, description="start: RFC 3339 or now-1h; a window belongs where it starts")
    to_time: str | None = Field(None, description="end: RFC 3339, now-5m or now (the default)")
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
