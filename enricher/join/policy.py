# SPDX-License-Identifier: Apache-2.0
"""What the settings decide about a join: which nodes have no collector, and how much detail to keep for free traffic.

Pure, and the same for the enricher and for a replay: history is joined by the same policy or says so.
"""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Detail = Literal["pod", "workload"]


class NodeNames:
    """Names of nodes by shell patterns (`fargate-*`), matched whole; answers are remembered.

    A node of another cluster, CLUSTER/NODE, is one of them by either: `fargate-*`, `data/*`.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        wanted = [fnmatch.translate(pattern) for pattern in patterns]
        self._pattern = re.compile("|".join(wanted)) if wanted else None
        self._known: dict[str, bool] = {}

    def __contains__(self, name: str | None) -> bool:
        if self._pattern is None or name is None:
            return False
        found = self._known.get(name)
        if found is None:
            names = (name, name.rpartition("/")[2])
            found = self._known[name] = any(map(self._pattern.match, names))
        return found


@dataclass(frozen=True, slots=True)
class Policy:
    """`unmetered`: nodes that have no collector, so that what they send is counted where it is received.

    `detail`: with `workload`, flows of one chunk that stay within a node or a zone are summed up by workload.
    """

    unmetered: NodeNames = field(default_factory=NodeNames)
    detail: Detail = "pod"


def policy_of(unmetered_nodes: str, detail: Detail = "pod") -> Policy:
    """Return the policy that settings name; `unmetered_nodes`: patterns, comma-separated."""
    patterns = (pattern.strip() for pattern in unmetered_nodes.split(","))
    return Policy(NodeNames(pattern for pattern in patterns if pattern), detail)


# EKS names its Fargate nodes so, and no DaemonSet runs on them.
UNMETERED = "fargate-*"
DEFAULT = policy_of(UNMETERED)
