# SPDX-License-Identifier: Apache-2.0
"""Attaching the tc dispatcher to devices by TCX links (Linux 6.6): pinned, so that they outlive the collector.

Each device has one link for what enters and one for what leaves, before all other programs: the network plugin's may
redirect a packet, and what comes behind them then never sees it; and at egress it is before their source NAT.
"""

import errno
from pathlib import Path

from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import pins
from collector.kernel.bpf_syscall import TCX_EGRESS, TCX_INGRESS

_WAYS = {"ingress": TCX_INGRESS, "egress": TCX_EGRESS}
_NO_DEVICE = 0


def is_known(dispatcher: int) -> bool:
    """Return whether this kernel has TCX; asks it to attach where no device is."""
    try:
        sys_bpf.tcx_link_create(dispatcher, _NO_DEVICE, TCX_EGRESS)
    except OSError as error:
        return error.errno == errno.ENODEV
    raise RuntimeError("the kernel attached a program to no device")


def attached(root: Path) -> set[int]:
    """Return the devices by index that have zonemeter's links, or had them before they were gone."""
    return {int(path.name.split("_")[2]) for path in root.glob(pins.LINKS["tc"])}


def attach(root: Path, dispatcher: int, ifindex: int) -> None:
    """Make what is missing of a device's links; raises OSError, ENODEV if there is no such device."""
    for way, attach_type in _WAYS.items():
        path = _path(root, ifindex, way)
        if path.exists():
            with pins.closing_fd(sys_bpf.obj_get(str(path))) as link:
                if sys_bpf.tcx_link_ifindex(link) == ifindex:
                    continue
            path.unlink()  # of a device that had this index before
        with pins.closing_fd(sys_bpf.tcx_link_create(dispatcher, ifindex, attach_type)) as link:
            sys_bpf.obj_pin(link, str(path))


def detach(root: Path, ifindex: int) -> None:
    """Remove a device's links; it may be gone."""
    for way in _WAYS:
        _path(root, ifindex, way).unlink(missing_ok=True)


def is_whole(root: Path, ifindex: int) -> bool:
    """Return whether both links of a device are there and the device still is."""
    for way in _WAYS:
        try:
            link = sys_bpf.obj_get(str(_path(root, ifindex, way)))
        except FileNotFoundError:
            return False
        with pins.closing_fd(link):
            if sys_bpf.tcx_link_ifindex(link) != ifindex:
                return False
    return True


def _path(root: Path, ifindex: int, way: str) -> Path:
    return root / f"link_tcx_{ifindex}_{way}"
