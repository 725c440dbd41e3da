# SPDX-License-Identifier: Apache-2.0
"""Hook tc: the dispatcher on the uplinks, by TCX links or clsact filters, followed as devices come and go.

Must be called in the network namespace whose devices are meant.
"""

import errno
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from collector.attach import tcx
from collector.errors import LoadError
from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import pins

log = logging.getLogger(__name__)


def attach(root: Path, wanted: Iterable[int], *, use_tcx: bool | None = None) -> None:
    """Attach to these devices what is not yet; `use_tcx` None takes TCX where the kernel has it.

    A device that refuses is said and left out, the uplinks' own counters then show what was missed; one that has gone
    meanwhile is not.
    """
    with pins.closing_fd(_dispatcher(root)) as dispatcher:
        by_links = tcx.is_known(dispatcher) if use_tcx is None else use_tcx
        _detach_by_other(root, dispatcher, by_links=by_links)
        for ifindex in sorted(wanted):
            try:
                if by_links:
                    tcx.attach(root, dispatcher, ifindex)
                else:
                    _clsact().attach(root, dispatcher, ifindex)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    log.error("nothing of device %d is counted, tc cannot be attached: %s", ifindex, error)


def detach(root: Path, but: Iterable[int] = ()) -> None:
    """Detach from all devices except these; raise `LoadError` if they are in another network namespace."""
    keep = set(but)
    for ifindex in tcx.attached(root) - keep:
        tcx.detach(root, ifindex)
    gone = _filtered(root) - keep
    if not gone:
        return
    if pins.pinned_namespace(root) != pins.network_namespace():
        raise LoadError(f"the tc filters of {root} are in another network namespace; detach must run in it")
    with pins.closing_fd(_dispatcher(root)) as dispatcher:
        for ifindex in gone:
            _clsact().detach(root, dispatcher, ifindex)


def _detach_by_other(root: Path, dispatcher: int, *, by_links: bool) -> None:
    """Detach what the other way attached: both side by side would count each packet twice."""
    for ifindex in _filtered(root) if by_links else tcx.attached(root):
        if by_links:
            _clsact().detach(root, dispatcher, ifindex)
        else:
            tcx.detach(root, ifindex)


def missing(root: Path, wanted: Iterable[int]) -> list[int]:
    """Return which of these devices are not attached to in full."""
    by_links, by_filters = tcx.attached(root), _filtered(root)
    with pins.closing_fd(_dispatcher(root)) as dispatcher:
        return [
            ifindex
            for ifindex in sorted(wanted)
            if not (ifindex in by_links and tcx.is_whole(root, ifindex))
            and not (ifindex in by_filters and _clsact().is_whole(dispatcher, ifindex))
        ]


def how(root: Path) -> str:
    """Return by what it is attached, for people."""
    return "TCX" if tcx.attached(root) else "clsact" if _filtered(root) else "nothing"


def _filtered(root: Path) -> set[int]:
    """Return the devices that have filters, or had them before they were gone."""
    return set(_clsact().attached(root)) if (root / "clsact").exists() else set()


def _clsact() -> Any:
    """Return the module that makes filters: it brings pyroute2, 4 MB that most collectors do not need."""
    from collector.attach import clsact

    return clsact


def _dispatcher(root: Path) -> int:
    return sys_bpf.obj_get(str(root / pins.DISPATCHER["tc"]))
