# SPDX-License-Identifier: Apache-2.0
"""What can be told of a node before any of zonemeter runs on it: kernel, rights, network, clock. Changes nothing."""

import ctypes
import os
import platform
from collections.abc import Collection, Sequence
from pathlib import Path

from collector.attach import hook, netlink, uplinks
from collector.attach.uplinks import Link
from collector.host import preflight
from collector.kernel import pin_owner
from collector.kernel.epoch_record import MAX_UPLINKS
from collector.kernel.layout import MOST_UPLINKS
from common.amounts import first_few
from doctor.checks import Check, Finding, fault, ok, unclear

_libc = ctypes.CDLL(None, use_errno=True)

BTF = Path("/sys/kernel/btf")
CONNTRACK = Path("/proc/sys/net/netfilter/nf_conntrack_count")
BRIDGE_CALL = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
# include/uapi/linux/timex.h
_TIME_ERROR = 5
_STA_UNSYNC = 0x40
_STA_NANO = 0x2000
_MUCH_MS = 500.0


class _Timex(ctypes.Structure):
    """struct timex on 64-bit machines."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    )


def host_checks(
    pin_dir: Path, patterns: Sequence[str], tunnel_ports: Collection[int] = (), *, loads: bool = True
) -> list[Check]:
    """Return the checks; `patterns` are the uplinks as the collector's setting names them, `tunnel_ports` likewise.

    `loads`: the collector loads its program itself.
    """
    return [
        Check("kernel", lambda: check_kernel(platform.release(), platform.machine())),
        Check("btf", lambda: check_btf(BTF)),
        Check("capabilities", lambda: check_capabilities(Path("/proc/self/status").read_text(), loads=loads)),
        *([Check("netfilter programs", check_netfilter)] if loads else []),
        Check("bpffs", lambda: check_bpffs(pin_dir)),
        Check("uplinks", lambda: check_uplinks(patterns)),
        Check("overlays", lambda: check_overlays(tunnel_ports)),
        Check("network plugin", lambda: check_plugin(netlink.read()[0], hook.CILIUM_CONFIG)),
        Check("bridges", lambda: check_bridges(netlink.read()[0], BRIDGE_CALL)),
        Check("conntrack", lambda: check_conntrack(CONNTRACK)),
        Check("clock", check_clock),
    ]


def check_kernel(release: str, machine: str) -> list[Finding]:
    """Check whether this kernel and machine are of those that the hook works on; raise `Refusal` if not."""
    preflight.check_kernel(release, machine)
    return ok("kernel", f"{release} {machine}")


def check_btf(directory: Path) -> list[Finding]:
    """Check whether the kernel describes its own types, which takes the place of its headers."""
    if not (directory / "vmlinux").exists():
        return fault("btf", f"{directory}/vmlinux does not exist", "boot a kernel with CONFIG_DEBUG_INFO_BTF=y")
    return ok("btf", f"{directory}/vmlinux")


def check_capabilities(status: str, *, loads: bool = True) -> list[Finding]:
    """Check whether this process may load and attach; `status` is /proc/self/status. Raises `Refusal` if not."""
    preflight.check_capabilities(status, None if loads else "netfilter")
    if not loads:
        return ok("capabilities", "BPF, for what another process loads")
    return ok("capabilities", "BPF, NET_ADMIN and PERFMON, or SYS_ADMIN in their place")


def check_netfilter() -> list[Finding]:
    """Check whether programs can be attached to netfilter, and what is done where they cannot."""
    name = "netfilter programs"
    try:
        refusal = hook.netfilter_refusal()
    except PermissionError:
        return unclear(name, "this process may not load programs", "run as root, or inside the collector's pod")
    if refusal:
        return unclear(name, refusal, "the collector counts at tc (--hook auto); docs/counting.md says what differs")
    return ok(name, "can be loaded, links are known")


def check_bpffs(pin_dir: Path) -> list[Finding]:
    """Check whether the pin directory is on a bpffs; raise `Refusal` if others can write there."""
    if preflight.is_bpffs(pin_dir):
        if pin_dir.is_dir():
            pin_owner.check(pin_dir, pin_dir.stat())
        return ok("bpffs", str(pin_dir))
    if pin_dir.is_relative_to(preflight.BPFFS):
        todo = f"the collector mounts it if it may (SYS_ADMIN); else: mount -t bpf bpf {preflight.BPFFS}"
        return unclear("bpffs", f"nothing of type bpf is mounted above {pin_dir}", todo)
    return fault("bpffs", f"{pin_dir} is not on a bpffs", f"--pin-dir {preflight.BPFFS}/zonemeter")


def check_uplinks(patterns: Sequence[str]) -> list[Finding]:
    """Tell which devices lead out of the node, by the collector's own rule."""
    return uplinks_finding(uplinks.choose(*netlink.read(), patterns))


def uplinks_finding(chosen: Sequence[Link]) -> list[Finding]:
    """Judge the choice; what the coverage does not look at is named."""
    names = [link.name for link in chosen]
    unwatched = sorted(set(names) - uplinks.contained(chosen))[MAX_UPLINKS:]
    if len(names) > MOST_UPLINKS:
        found = f"{len(names)}; what comes in over those beyond {MOST_UPLINKS} would count as sent from here"
        return fault("uplinks", found, "name those that matter: --uplinks eth0,ens*")
    if unwatched:
        found = f"{len(names)}; the coverage does not look at {first_few(unwatched)}"
        return unclear("uplinks", found, "fine for tunnels; else name those that matter: --uplinks eth0,ens*")
    if not names:
        return fault("uplinks", "none: all traffic would count as sent from here", "name them: --uplinks eth0,ens*")
    return ok("uplinks", first_few(names, 100))


def check_overlays(tunnel_ports: Collection[int]) -> list[Finding]:
    """Check whether it is known what carries the packets of TUN devices."""
    names = uplinks.unexplained(netlink.read()[0], netlink.bound_ports(), tunnel_ports)
    if names:
        found = f"what carries the packets of {', '.join(names)} is not known: it counts beside them, as the host's"
        return unclear("overlays", found, "name the UDP ports that its program is bound to: --tunnel-ports 1194")
    return ok("overlays", "none with outer packets that are not known")


def check_plugin(links: Sequence[Link], cilium: Path) -> list[Finding]:
    """Tell by its devices and files whether the network plugin lets pods' packets bypass netfilter."""
    name, sign = "network plugin", hook.bypass(links, cilium)
    if sign:
        todo = "--hook auto counts at tc here; should `links` say netfilter, restart the collector without --hook"
        return unclear(name, f"{sign}: pods' packets bypass netfilter", todo)
    if any(link.name == "cilium_host" for link in links):
        ask = "kubectl -n kube-system exec ds/cilium -- cilium-dbg status | grep Routing; Host: BPF means --hook tc"
        known = cilium.exists()
        found = f"{cilium} does not say that it routes in eBPF" if known else "whether it routes in eBPF cannot be told"
        return unclear(name, f"Cilium; {found}", ask)
    return ok(name, "no sign of one that bypasses netfilter")


def check_bridges(links: Sequence[Link], switch: Path) -> list[Finding]:
    """Check whether packets that a bridge switches between pods of this node pass netfilter."""
    names = sorted(link.name for link in links if link.kind == "bridge")
    if not names:
        return ok("bridges", "none: every packet is routed")
    if switch.exists() and switch.read_text().strip() == "1":
        return ok("bridges", f"{', '.join(names)}; bridge-nf-call-iptables = 1")
    return unclear(
        "bridges",
        f"{', '.join(names)}: what they switch between pods of this node is not seen",
        "if pods hang on one of them: modprobe br_netfilter; sysctl net.bridge.bridge-nf-call-iptables=1",
    )


def check_conntrack(counter: Path) -> list[Finding]:
    """Check whether connections are tracked; without it nobody knows which traffic went through a Service."""
    if counter.exists():
        return ok("conntrack", "tracks connections")
    return unclear(
        "conntrack",
        "not loaded: flows say neither dnat nor who serves",
        "fine where no Service is translated on the node",
    )


def check_clock() -> list[Finding]:
    """Ask the kernel (adjtimex, which changes nothing here) whether somebody keeps its clock right."""
    timex = _Timex()
    state = _libc.adjtimex(ctypes.byref(timex))
    if state < 0:
        return unclear("clock", f"adjtimex: {os.strerror(ctypes.get_errno())}")
    offset_ms = timex.offset / (1e6 if timex.status & _STA_NANO else 1e3)
    return clock_finding(state == _TIME_ERROR or bool(timex.status & _STA_UNSYNC), offset_ms)


def clock_finding(unsynchronised: bool, offset_ms: float) -> list[Finding]:
    """Judge what adjtimex said."""
    if unsynchronised:
        todo = "run chrony or systemd-timesyncd: windows are aligned by the clock, addresses are looked up as of it"
        return unclear("clock", "the kernel does not know it to be synchronised", todo)
    if abs(offset_ms) > _MUCH_MS:
        return fault("clock", f"{offset_ms:+.0f} ms off", "let it settle; chronyc tracking says more")
    return ok("clock", f"synchronised, {offset_ms:+.3f} ms off")
