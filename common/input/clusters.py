# SPDX-License-Identifier: Apache-2.0
"""Other clusters on the same Kafka, as settings and flags name them: NAME=TOPIC_PREFIX, comma-separated. Pure."""

import re
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

_EXAMPLE = "prod-us=zonemeter.us."
# What a cluster may be called, and what topics may begin with: as the settings `cluster` and `topic_prefix` have it.
_CLUSTER = re.compile(r"(?s)(?=.{1,253}$)[^/,=]+")
_PREFIX = re.compile(r"[a-zA-Z0-9._-]{1,100}")


def other_clusters(text: str, topic_prefix: str, cluster: str | None = None) -> dict[str, str]:
    """Return the topic prefixes of other clusters by their names; raise `ValueError` for what can be none.

    `topic_prefix`, `cluster`: of the one that asks, which is not another.
    """
    found: dict[str, str] = {}
    for part in text.split(",") if text.strip() else ():
        name, equals, prefix = (each.strip() for each in part.partition("="))
        if not equals or not _CLUSTER.fullmatch(name) or not name.isprintable() or not _PREFIX.fullmatch(prefix):
            raise ValueError(f"{part.strip()!r}: expected NAME=TOPIC_PREFIX, for example, {_EXAMPLE}")
        if name in found or prefix in found.values():
            raise ValueError(f"{part.strip()!r}: the name or the prefix is there twice")
        if name == cluster:
            raise ValueError(f"{part.strip()!r}: this is the cluster itself; name only the others")
        if prefix == topic_prefix:
            raise ValueError(
                f"{part.strip()!r}: these topics are this cluster's own; each cluster needs a topic prefix of its own"
            )
        found[name] = prefix
    return found


def _checked(text: str, info: ValidationInfo) -> str:
    cluster = info.data.get("cluster")  # of a command that is a filter, a list
    other_clusters(text, info.data.get("topic_prefix", ""), cluster if isinstance(cluster, str) else None)
    return text


OtherClusters = Annotated[str, AfterValidator(_checked)]
