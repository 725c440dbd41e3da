# SPDX-License-Identifier: Apache-2.0
"""What people call an end of a flow, as the flow log's columns: what tables print is understood. Pure."""

import ipaddress
from collections.abc import Iterable

from schemas.flow import KINDS
from sinks.flowlog.rows.columns import Value

_EXPECTED = "expected name, Kind/name, namespace/name, namespace/Kind/name, node/name or cidr/name"
# What an end in another cluster goes by has the cluster before its namespace.
_MOST_PARTS = 4

Choice = dict[str, Value]


def workload_columns(text: str) -> list[Choice]:
    """Return what an end's columns may be if it goes by that text, in a table or as people say it."""
    if text in ("external", "unknown"):
        return [{"kind": text}]
    parts = text.split("/")
    if len(parts) == 1:
        return [{"workload": text}]
    found: list[Choice] = []
    kind, _, name = text.partition("/")  # a CIDR entry's name may have a slash in it
    if kind in KINDS:
        found.append({"kind": kind, "node" if kind == "node" else "name": name})
    if len(parts) == 2:
        found.append({"namespace": parts[0], "workload": parts[1]})
        found.append({"workload_kind": parts[0], "workload": parts[1]})
    elif len(parts) in (3, _MOST_PARTS):
        *before, kind, name = parts
        namespace = "/".join(before)
        found.append({"namespace": f"{namespace}/{kind}", "workload": name})
        found.append({"namespace": namespace, "workload_kind": kind, "workload": name})
        if kind == "Pod":
            found.append({"kind": "pod", "namespace": namespace, "pod": name})
        elif kind == "Service":
            found.append({"kind": "service", "namespace": namespace, "service": name})
    return found


def check_end(name: str, text: str) -> None:
    """Raise `ValueError` for what no end goes by."""
    parts = text.split("/")
    if not all(parts) or (len(parts) > _MOST_PARTS and parts[0] not in KINDS):
        raise ValueError(f"{name} {text!r}: {_EXPECTED}")


def pod_columns(text: str) -> list[Choice]:
    """Return what a pod's columns may be if it goes by that text."""
    namespace, slash, name = text.rpartition("/")
    return [{"namespace": namespace, "pod": name}] if slash else [{"pod": text}]


def side_columns(texts: Iterable[str]) -> list[Choice]:
    """Return what the columns of a source or a destination may be that goes by one of these; not those of addresses."""
    found = []
    for text in texts:
        if not is_network(text):
            found += workload_columns(text)
            if text.count("/") < 2:
                found += pod_columns(text)
            if text.count("/") == 1:
                namespace, name = text.split("/")
                found.append({"kind": "service", "namespace": namespace, "service": name})
    return found


def reads_as_network(text: str) -> bool:
    """Return whether a text is an address or a CIDR, or nearly one: bits may be set after the prefix."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def is_network(text: str) -> bool:
    """Return whether a text is an address or a CIDR; raise `ValueError` where it is nearly one."""
    if not reads_as_network(text):
        return False
    check_network(text)
    return True


def check_network(text: str) -> None:
    """Raise `ValueError` for what is neither an address nor a CIDR."""
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"address {text!r}: {error}; expected, for example, 10.42.1.17 or 10.42.0.0/16") from error


def check_pod(text: str) -> None:
    """Raise `ValueError` for what no pod goes by."""
    if text.count("/") > 2 or not all(text.split("/")):
        raise ValueError(f"pod {text!r}: expected name or namespace/name")
