# SPDX-License-Identifier: Apache-2.0
"""What `zonemeter doctor` looks at on a node: the host, and what a collector has pinned there. Changes nothing.

It reads the maps as the collector does, beside it; whether what was published arrived is not its business.
"""

import contextlib
import os
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from collector.attach import netlink, tc, uplinks
from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import pins
from collector.kernel.epoch_record import DeviceCounters, EpochRecord, Uplink
from collector.kernel.generation import Generation
from collector.kernel.layout import HOOK_COUNTER, LOST
from collector.outbox.spool import directory_for
from collector.window.coverage import WindowCoverage
from collector.window.encode import received
from doctor.checks import Check, Finding, UnclearError, fault, ok, unclear
from doctor.host import host_checks

LINKS = frozenset(f"link_{family}_{hook}" for family in ("ipv4", "ipv6") for hook in ("post_routing", "local_in"))
# The longest window is 60 s; one this old has not been closed.
_OVERDUE_SECONDS = 120.0
_TIGHT_RATIO = 0.7
# As much as a window of 100,000 flows.
_WINDOW_BYTES = 1 << 20


def node_checks(
    pin_dir: Path,
    patterns: Sequence[str],
    spool_dir: Path,
    spool_size: int,
    tunnel_ports: Collection[int] = (),
    *,
    loads: bool = True,
) -> list[Check]:
    """Return all checks of this node, for processes in its own network namespace; `loads` as `host_checks` has it."""
    spool = directory_for(spool_dir, pin_dir)
    return [
        *host_checks(pin_dir, patterns, tunnel_ports, loads=loads),
        Check("links", lambda: check_links(pin_dir, patterns)),
        Check("window", lambda: check_window(pin_dir, time.time())),
        Check("map", lambda: check_map(pin_dir)),
        Check("spool", lambda: check_spool(spool, spool_size, time.time())),
        Check("coverage", lambda: check_coverage(pin_dir, netlink.device_counters())),
    ]


def check_links(root: Path, patterns: Sequence[str] = ()) -> list[Finding]:
    """Check whether all of the hook in use is attached, and which generation counts."""
    if not root.is_dir():
        return unclear("links", f"nothing is pinned at {root}: no collector has run here", "zonemeter run collector")
    active = pins.active_generation(root)
    meta = None if active is None else pins.read_meta(root, active)
    if active is None or meta is None:
        return fault("links", "no program counts", "restart the collector: it loads one")
    if _is_elsewhere(root):
        where = f"attached in another network namespace than this one; generation {active} counts there"
        return unclear("links", where, "run doctor in the node's network namespace (hostNetwork)")
    missing, found = _netfilter_links(root) if meta.hook == "netfilter" else _tc_attachments(root, patterns)
    if missing:
        return fault("links", f"missing: {', '.join(missing)}", "restart the collector: it makes what is missing")
    return ok("links", f"{found}; generation {active} counts for node {meta.node} of cluster {meta.cluster}")


def _netfilter_links(root: Path) -> tuple[list[str], str]:
    return sorted(LINKS - {path.name for path in root.glob("link_*")}), f"hook netfilter, {len(LINKS)} attached"


def _tc_attachments(root: Path, patterns: Sequence[str]) -> tuple[list[str], str]:
    chosen = {link.index: link.name for link in uplinks.choose(*netlink.read(), patterns)}
    missing = [f"tc on {chosen[ifindex]}" for ifindex in tc.missing(root, chosen)]
    return missing, f"hook tc by {tc.how(root)} on {', '.join(chosen.values()) or 'no uplink'}"


def check_window(root: Path, now_seconds: float) -> list[Finding]:
    """Check whether windows are being closed: by a collector that lives, and that has somewhere to put them."""
    with _counting(root) as (generation, _, record):
        age = now_seconds - record.start_ms / 1000
        stopped = generation.stopped_for()
    if stopped is not None:
        todo = "start the collector: counting goes on with its first window, and the ledger names the time between"
        return fault("window", f"nothing is counted, since {stopped:.0f} s: no collector was there (--deadman)", todo)
    if age > _OVERDUE_SECONDS:
        todo = "is the collector running, and is there room in its spool? its /readyz says; nothing is lost yet"
        return fault("window", f"the open window began {age:.0f} s ago", todo)
    return ok("window", f"the open one is number {record.sequence}, {max(age, 0):.0f} s old")


def check_map(root: Path) -> list[Finding]:
    """Tell how full the counting map is, and whether anything found no room."""
    with _counting(root) as (generation, epoch, _):
        rows = len(generation.drain(epoch))
        counters = generation.read_counters(epoch)
        path = pins.generation_dir(root, generation.meta.generation) / f"flows{epoch}"
        with pins.closing_fd(sys_bpf.obj_get(str(path))) as fd:
            room = sys_bpf.map_entries(fd)
    return map_finding(rows, room, {reason: counters[index][0] for reason, index in LOST.items()})


def map_finding(rows: int, room: int, lost: dict[str, int]) -> list[Finding]:
    """Judge a map with `rows` of `room` flows; `lost` in bytes by reason."""
    fill = f"{rows:,} of {room:,} flows in the open window"
    gone = ", ".join(f"{reason} {octets:,} bytes" for reason, octets in lost.items() if octets)
    if gone:
        return fault("map", f"{fill}; lost: {gone}", "give the collector a larger --map-memory, or --ports service")
    if rows / room >= _TIGHT_RATIO:
        return unclear("map", fill, "it may run full: a larger --map-memory")
    return ok("map", fill)


def check_spool(directory: Path, limit: int, now_seconds: float) -> list[Finding]:
    """Check whether windows wait on disk, for how long, and whether there is room for more."""
    if not directory.is_dir():
        return unclear("spool", f"{directory} does not exist: no collector has run here, or its disk cannot be written")
    files = {path: path.stat() for path in directory.iterdir() if path.suffix in (".window", ".damaged")}
    damaged = [path for path in files if path.suffix == ".damaged"]
    if damaged:
        todo = "their windows are lost, the ledger has them as spool_damaged; look at the disk, then delete them"
        return fault("spool", f"{len(damaged)} damaged files in {directory}", todo)
    disk = os.statvfs(directory)
    used, free = sum(found.st_size for found in files.values()), disk.f_bavail * disk.f_frsize
    room = min(limit - used, free)
    if disk.f_flag & os.ST_RDONLY or room < used or room < _WINDOW_BYTES:
        return fault(
            "spool", f"{used:,} bytes in {directory}, {max(room, 0):,} to go", "free the disk, or --spool-size"
        )
    if not files:
        return ok("spool", f"empty; {room:,} bytes to go")
    age = now_seconds - min(found.st_mtime for found in files.values())
    todo = "Kafka does not take windows, or did not until now: the collector's /readyz says why"
    return unclear("spool", f"{len(files)} windows wait, for {age:.0f} s; {used:,} bytes, {room:,} to go", todo)


def check_coverage(root: Path, devices: dict[str, DeviceCounters]) -> list[Finding]:
    """Compare what the hook saw in the open window with what the uplinks counted meanwhile."""
    if _is_elsewhere(root):
        raise UnclearError("the uplinks of that network namespace are not seen from this one")
    with _counting(root) as (generation, epoch, record):
        seen = generation.read_counters(epoch)[HOOK_COUNTER][0]
        of_it = received(generation.drain(epoch)).bytes
    during = [Uplink(u.name, u.start, devices[u.name]).during() for u in record.uplinks if u.name in devices]
    sent, got = sum(uplink[0] for uplink in during), sum(uplink[2] for uplink in during)
    return coverage_finding(WindowCoverage(seen, of_it, sent, got))


def coverage_finding(found: WindowCoverage) -> list[Finding]:
    """Judge the open window; the uplinks count frames, so a little more."""
    problem = found.problem()
    if problem is None:
        line = f"the hook saw {found.seen:,} bytes, the uplinks sent {found.sent:,} and got {found.got:,}"
        small = "" if found.ratios() else ": too little to compare"
        return ok("coverage", f"{line}, in the open window{small}")
    return fault("coverage", *problem) if found.ratios() else unclear("coverage", *problem)


def _is_elsewhere(root: Path) -> bool:
    pinned = pins.pinned_namespace(root) if root.is_dir() else None
    return pinned is not None and pinned != pins.network_namespace()


@contextlib.contextmanager
def _counting(root: Path) -> Iterator[tuple[Generation, int, EpochRecord]]:
    """Give the generation that counts, its epoch and that epoch's record; raise `UnclearError` where none does."""
    active = pins.active_generation(root) if root.is_dir() else None
    meta = None if active is None else pins.read_meta(root, active)
    if meta is None:
        raise UnclearError(f"nothing counts at {root}")
    with contextlib.closing(Generation(root, meta)) as generation:
        epoch = generation.epoch()
        yield generation, epoch, generation.read(epoch)
