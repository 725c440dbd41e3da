# SPDX-License-Identifier: Apache-2.0
"""Of whom the books are kept: clusters and nodes, a bounded number of each. Pure.

Names cost memory and series, and a forger in the ledger can make them up. Nodes that Kubernetes knows always
find room, others as long as there is some. What is left over is in the sums of one cluster, `_other_`, unaccounted: it
is counted and not reconciled.
"""

from collections.abc import Callable

from schemas.ids import Origin

OTHER = "_other_"
OTHERS = Origin(OTHER, OTHER, OTHER)


class Admitted:
    """Who has room. `is_node` tells of a name in `cluster` whether Kubernetes knows it."""

    def __init__(
        self,
        max_clusters: int,
        max_nodes: int,
        cluster: str | None = None,
        is_node: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self._max_clusters, self._max_nodes = max_clusters, max_nodes
        self._cluster, self._is_node = cluster, is_node
        self._nodes: dict[str, set[str]] = {}
        self._strangers = 0

    def admits(self, origin: Origin) -> bool:
        """Return whether the books are kept of a node, and remember it."""
        nodes = self._nodes.get(origin.cluster)
        if nodes is not None and origin.node in nodes:
            return True
        own = origin.cluster == self._cluster
        if not (own and self._is_node(origin.node)):
            if self._strangers >= self._max_nodes:
                return False
            if nodes is None and not own and len(self._nodes) >= self._max_clusters:
                return False
            self._strangers += 1
        self._nodes.setdefault(origin.cluster, set()).add(origin.node)
        return True

    def keep(self, living: set[tuple[str, str]]) -> None:
        """Forget all but these, as (cluster, node)."""
        self._nodes, self._strangers = {}, 0
        for cluster, node in living:
            self._nodes.setdefault(cluster, set()).add(node)
            self._strangers += not (cluster == self._cluster and self._is_node(node))
