# SPDX-License-Identifier: Apache-2.0
"""Attaching the tc dispatcher to devices by clsact filters, where the kernel has no TCX (below 6.6).

A filter is the device's own and outlives the collector. Which devices have ours, and whose clsact qdisc is ours, is in
a pinned map. A filter is known by its name, which holds the dispatcher's id: attaching twice is attaching once.
"""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collector.attach.rtnetlink import IPRoute, NetlinkError
from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import pins
from collector.kernel.bpf_syscall import MapType
from collector.kernel.layout import MOST_UPLINKS

# include/uapi/linux/pkt_sched.h: TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), ..._EGRESS
_PARENTS = (0xFFFFFFF2, 0xFFFFFFF3)
_ETH_P_ALL = 3
# Ours shall be first, and the kernel puts a new filter before others of its preference; 1 is the first there is, and
# Cilium's. Preferences held by another kind of filter are passed over.
_PREFERENCES = range(1, 9)
_GONE = (errno.ENODEV, errno.ENOENT, errno.EINVAL)
_QDISC_IS_OURS = 1
_MOST_DEVICES = 2 * MOST_UPLINKS  # those that are gone stand there too until they are detached


def attached(root: Path) -> set[int]:
    """Return the devices by index that have zonemeter's filters, or had them before they were gone."""
    with _devices(root) as devices:
        return set() if devices is None else {int.from_bytes(key, "little") for key in sys_bpf.map_keys(devices, 4)}


def attach(root: Path, dispatcher: int, ifindex: int) -> None:
    """Make what is missing of a device's qdisc and filters, and put ours first again.

    Raises OSError, ENODEV if there is no such device, EEXIST if it has an old `ingress` qdisc, which leaves no room
    for clsact.
    """
    with _devices(root, make=True) as devices, IPRoute() as ip:
        key = ifindex.to_bytes(4, "little")
        try:
            _make_qdisc(ip, devices, key)
            for parent in _PARENTS:
                if not _is_first(_filters(ip, ifindex, parent), name_of(dispatcher)):
                    for message in _ours(ip, ifindex, parent, name_of(dispatcher)):
                        _delete(ip, message)
                    _add(ip, ifindex, parent, dispatcher)
        except NetlinkError as error:
            raise OSError(error.code, f"tc: {error}") from error


def detach(root: Path, dispatcher: int, ifindex: int) -> None:
    """Remove zonemeter's filters from a device, and the qdisc if it is ours and empty; the device may be gone."""
    with _devices(root) as devices, IPRoute() as ip:
        if devices is None:
            return
        key = ifindex.to_bytes(4, "little")
        for parent in _PARENTS:
            for message in _ours(ip, ifindex, parent, name_of(dispatcher)):
                _delete(ip, message)
        if _value(devices, key) == _QDISC_IS_OURS and not any(_filters(ip, ifindex, p) for p in _PARENTS):
            with _unless_gone():
                ip.tc("del", "clsact", ifindex)
        sys_bpf.map_delete(devices, key)


def is_whole(dispatcher: int, ifindex: int) -> bool:
    """Return whether both filters of a device are there."""
    with IPRoute() as ip:
        return all(_ours(ip, ifindex, parent, name_of(dispatcher)) for parent in _PARENTS)


def name_of(dispatcher: int) -> str:
    """Return the name of our filters, as `tc filter show` has it."""
    return f"zonemeter:{sys_bpf.prog_id(dispatcher)}"


@contextlib.contextmanager
def _devices(root: Path, *, make: bool = False) -> Iterator[Any]:
    """Open the pinned map: key ifindex, value 1 if the clsact qdisc is ours; None if there is none."""
    path = root / "clsact"
    if make and not path.exists():
        with pins.closing_fd(sys_bpf.map_create(MapType.HASH, 4, 4, _MOST_DEVICES, "zm_clsact")) as fd:
            sys_bpf.obj_pin(fd, str(path))
    try:
        fd = sys_bpf.obj_get(str(path))
    except FileNotFoundError:
        yield None
        return
    with pins.closing_fd(fd):
        yield fd


def _value(devices: int, key: bytes) -> int | None:
    try:
        return int.from_bytes(sys_bpf.map_lookup(devices, key, 4), "little")
    except KeyError:
        return None


def _make_qdisc(ip: IPRoute, devices: int, key: bytes) -> None:
    """Note first what is about to be made: the next collector after a crash in between takes it for zonemeter's."""
    ifindex = int.from_bytes(key, "little")
    if any(each.get_attr("TCA_KIND") == "clsact" for each in ip.get_qdiscs(index=ifindex)):
        if _value(devices, key) is None:
            sys_bpf.map_update(devices, key, bytes(4))
        return
    sys_bpf.map_update(devices, key, _QDISC_IS_OURS.to_bytes(4, "little"))
    try:
        ip.tc("add", "clsact", ifindex)
    except NetlinkError:
        sys_bpf.map_delete(devices, key)
        raise


def _add(ip: IPRoute, ifindex: int, parent: int, dispatcher: int) -> None:
    for preference in _PREFERENCES:
        try:
            ip.tc(
                "add-filter",
                "bpf",
                ifindex,
                fd=dispatcher,
                name=name_of(dispatcher),
                parent=parent,
                direct_action=True,
                prio=preference,
                protocol=_ETH_P_ALL,
            )
        except NetlinkError as error:
            if error.code != errno.EINVAL or preference == _PREFERENCES[-1]:
                raise
        else:
            return


def _filters(ip: IPRoute, ifindex: int, parent: int) -> list[Any]:
    """Return the filters of one way, without the heads that the kernel lists for each preference."""
    try:
        found = list(ip.get_filters(index=ifindex, parent=parent))
    except NetlinkError as error:
        if error.code in _GONE:
            return []
        raise
    return [message for message in found if message["handle"]]


def _is_first(filters: list[Any], name: str) -> bool:
    """Return whether zonemeter's filter is first of its preference; `filters` is in the order in which they run."""
    for place, message in enumerate(filters):
        if _name(message) == name:
            return all(other["info"] != message["info"] for other in filters[:place])
    return False


def _name(message: Any) -> str | None:
    name: str | None = message.get_nested("TCA_OPTIONS", "TCA_BPF_NAME")
    return name


def _ours(ip: IPRoute, ifindex: int, parent: int, name: str) -> list[Any]:
    return [message for message in _filters(ip, ifindex, parent) if _name(message) == name]


def _delete(ip: IPRoute, message: Any) -> None:
    with _unless_gone():
        ip.tc(
            "del-filter",
            "bpf",
            message["index"],
            message["handle"],
            parent=message["parent"],
            info=message["info"],
        )


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in _GONE:
            raise
