# SPDX-License-Identifier: Apache-2.0
"""The same work done twice: two workloads that pull the same things from the same servers, across zones. Pure.

Replicas of one workload are one workload here: a pair on purpose (two replicas for availability) makes no finding.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher

from common.amounts import first_few, human
from history.advise.finding import Case, Finding, manifest
from history.model.evidence import Cell
from history.model.states.ready import workload_of

# Both pull from so many servers, and of all that either pulls from, so much is common.
FEWEST_TARGETS, COMMON = 3, 0.8
# What each pulls from a target differs by this factor at most.
ALIKE = 2.0
# Pulling: servers send so many times what they are sent.
PULLED = 3
# Names that share so much are of one kind; others have to share more targets.
NAMES_ALIKE, TARGETS_OF_STRANGERS = 0.6, 5

Target = tuple[str, int]


def findings(case: Case) -> Iterator[Finding]:
    """Yield each pair of workloads that does the same work, the one that pays more first; each workload once."""
    pulled = _pulled(case)
    found = []
    for one, other in _alike(pulled):
        if _is_twin(one, other, pulled[one], pulled[other]):
            crossing = {name: case.crossing_of_clients.get(name, {}) for name in (one, other)}
            dear, cheap = sorted((one, other), key=lambda name: (-sum(crossing[name].values()), name))
            found.append((sum(crossing[dear].values()), dear, cheap, crossing[dear]))
    told: set[str] = set()
    for size, dear, cheap, cells in sorted(found, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if size and not told & {dear, cheap}:
            told |= {dear, cheap}
            yield _finding(dear, cheap, cells, pulled)


def _finding(dear: str, cheap: str, cells: dict[Cell, int], pulled: Mapping[str, Mapping[Target, int]]) -> Finding:
    common = sorted(pulled[dear].keys() & pulled[cheap].keys(), key=lambda target: -pulled[dear][target])
    shown = first_few([f"{label}:{port}" for label, port in common])
    group = workload_of(dear)
    assert group is not None  # `_pulled` takes workloads only
    return Finding(
        kind="twice",
        title=f"pulls what {cheap} pulls",
        subject=dear,
        sure="ask",
        fates={cell: {} for cell in cells},
        facts=[
            f"both pull from {len(common)} servers ({shown})",
            f"from these {dear} gets {human(sum(pulled[dear][target] for target in common))}, "
            f"{cheap} {human(sum(pulled[cheap][target] for target in common))}",
            f"across zones {dear} pays for more, so it is the one named here",
        ],
        conditions=[
            "nobody needs the second one: a pair for availability is two on purpose",
            "kubectl says who else sets replicas (a chart, an operator): change it there, or it comes back",
        ],
        costs=["what only the second one keeps (its dashboards, alerts, history) goes with it"],
        manifests=[manifest(group, {"replicas": 0})],
        steps=["if both are needed, let each scrape its own zone"],
    )


def _pulled(case: Case) -> dict[str, dict[Target, int]]:
    """Return what each workload that may be scaled pulls from which server and port, in bytes."""
    asked: defaultdict[tuple[str, Target], int] = defaultdict(int)
    answered: defaultdict[tuple[str, Target], int] = defaultdict(int)
    for target, cells in case.by_server.items():
        for cell, size in cells:
            group = workload_of(cell.client.label)
            if group is not None and group.kind in ("Deployment", "StatefulSet"):
                (asked if cell.is_request else answered)[cell.client.label, _kind_of(target)] += size
    found: defaultdict[str, dict[Target, int]] = defaultdict(dict)
    for (client, target), size in answered.items():
        if size >= PULLED * asked[client, target]:
            found[client][target] = size
    return found


def _alike(pulled: Mapping[str, Mapping[Target, int]]) -> Iterator[tuple[str, str]]:
    """Yield the pairs that can have enough in common, each once, in order of their names.

    Of two that share `COMMON` of their targets, each has a shared one among its few rarest: a prefix filter (Chaudhuri
    et al., A Primitive Operator for Similarity Joins, 2006). So what asks the same DNS as everybody meets nobody there.
    """
    popular = Counter(target for targets in pulled.values() for target in targets)
    met: defaultdict[Target, list[str]] = defaultdict(list)
    found: set[tuple[str, str]] = set()
    for name in sorted(pulled):
        rarest = sorted(pulled[name], key=lambda target: (popular[target], target))
        for target in rarest[: len(rarest) - math.ceil(COMMON * len(rarest)) + 1]:
            found.update((other, name) for other in met[target])
            met[target].append(name)
    yield from sorted(found)


def _kind_of(target: Target) -> Target:
    # A node exporter on each of 200 nodes is one target.
    return ("nodes" if target[0].startswith("node/") else target[0]), target[1]


def _is_twin(one: str, other: str, here: Mapping[Target, int], there: Mapping[Target, int]) -> bool:
    common = here.keys() & there.keys()
    if len(common) < FEWEST_TARGETS or len(common) < COMMON * len(here.keys() | there.keys()):
        return False
    alike = sum(1 for target in common if max(here[target], there[target]) <= ALIKE * min(here[target], there[target]))
    if alike < COMMON * len(common):
        return False
    here_named, there_named = (name.rpartition("/")[2] for name in (one, other))
    return len(common) >= TARGETS_OF_STRANGERS or SequenceMatcher(None, here_named, there_named).ratio() >= NAMES_ALIKE
