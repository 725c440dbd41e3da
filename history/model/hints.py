# SPDX-License-Identifier: Apache-2.0
"""Hints for an empty result: the values present, and the one that was probably meant. Pure."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from history.model.end_names import workload_columns
from history.model.filters import Selection
from sinks.flowlog.columns import Value

LONGEST_LIST = 8


@dataclass
class Present:
    """What values there are in a range. `workloads`: `namespace/Kind/name`; `pods`: `namespace/name`.

    `addressed`: some end has one of the addresses wanted. `largest`: the greatest flow's bytes. `met`: what is asked of
    one side or of the way, by the filter's name, and is met by some flow.
    """

    clusters: set[str] = field(default_factory=set)
    namespaces: set[str] = field(default_factory=set)
    workloads: set[str] = field(default_factory=set)
    pods: set[str] = field(default_factory=set)
    zones: set[str] = field(default_factory=set)
    scopes: set[str] = field(default_factory=set)
    ports: set[str] = field(default_factory=set)
    addressed: bool = False
    largest: int = 0
    met: set[tuple[str, str]] = field(default_factory=set)

    def add_end(self, values: Mapping[str, Value]) -> None:
        """Note an end's values, by the names of `END_COLUMNS`."""
        namespace, workload, pod = values.get("namespace"), values.get("workload"), values.get("pod")
        for known, value in ((self.namespaces, namespace), (self.zones, values.get("zone"))):
            if value is not None:
                known.add(str(value))
        if workload is not None:
            self.workloads.add(f"{namespace}/{values.get('workload_kind')}/{workload}")
        if pod is not None:
            self.pods.add(f"{namespace}/{pod}")
        if values.get("port") is not None:
            self.ports.add(str(values["port"]))

    def merge(self, other: "Present") -> None:
        """Note the values of other rows too."""
        for name in ("clusters", "namespaces", "workloads", "pods", "zones", "scopes", "ports", "met"):
            getattr(self, name).update(getattr(other, name))
        self.addressed |= other.addressed
        self.largest = max(self.largest, other.largest)

    def has_workload(self, text: str) -> bool:
        """Return whether some workload goes by that text."""
        return any(_goes_by(full, text) for full in self.workloads)

    def has_pod(self, text: str) -> bool:
        """Return whether some pod goes by that text."""
        return any(full == text or full.partition("/")[2] == text for full in self.pods)


def why_nothing(selection: Selection, present: Present, where: str = "in this range") -> str:
    """Say in one line why no row matched, and which filter would have."""
    checks: tuple[tuple[str, Iterable[str], set[str], Callable[[str], bool]], ...] = (
        ("cluster", selection.clusters, present.clusters, present.clusters.__contains__),
        ("namespace", selection.namespaces, present.namespaces, present.namespaces.__contains__),
        ("workload", selection.workloads, present.workloads, present.has_workload),
        ("pod", selection.pods, present.pods, present.has_pod),
        ("zone", selection.zones, present.zones, present.zones.__contains__),
        ("scope", selection.scopes, present.scopes, present.scopes.__contains__),
        ("port", map(str, selection.ports), present.ports, present.ports.__contains__),
    )
    for name, wanted, there, has in checks:
        missing = [value for value in wanted if not has(value)]
        if missing:
            return f'no flow of {name} "{missing[0]}" {where}; {_suggest(name, missing[0], there)}'
    for name, value, _ in selection.one_sided():
        if (name, value) not in present.met:
            return f'no flow of {name} "{value}" {where}'
    if selection.addresses and not present.addressed:
        return f"no flow from or to {', '.join(selection.addresses)} {where}"
    if selection.min_bytes > present.largest:
        return f"no flow of {selection.min_bytes:,} bytes or more {where}; the largest has {present.largest:,}"
    return f"no flow meets all the filters {where}, though each alone is met by some; leave one out"


def _goes_by(full: str, text: str) -> bool:
    namespace, kind, name = full.split("/", 2)
    values = {"namespace": namespace, "workload_kind": kind, "workload": name}
    return any(all(values[key] == value for key, value in choice.items()) for choice in workload_columns(text))


def _suggest(name: str, wanted: str, there: set[str]) -> str:
    if not there:
        return f"none here has a {name}"
    if name == "scope":  # it is one that there is, only not here
        return f"there are {', '.join(sorted(there))}"
    # A name is typed without what stands before it: compare with the last part too.
    last = {full.rpartition("/")[2]: full for full in sorted(there)}
    near = difflib.get_close_matches(wanted, [*there, *last], n=1)
    if near:
        return f"did you mean {near[0]}?"
    shown = sorted(there)[:LONGEST_LIST]
    more = f" and {len(there) - len(shown)} more" if len(there) > len(shown) else ""
    return f"there are {', '.join(shown)}{more}"
