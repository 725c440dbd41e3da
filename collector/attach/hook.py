# SPDX-License-Identifier: Apache-2.0
"""At which hook this node is to be metered: netfilter where it sees all, else tc. `choose` is pure.

netfilter sees each packet once, at its source and with its real addresses, also within the node. tc sees the uplinks
only (docs/counting.md has the differences), but on kernels from 5.15 on and below any network plugin.
"""

import errno
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from collector.attach import netlink
from collector.attach.uplinks import Link
from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel.bpf_syscall import BPF_NETFILTER, PROG_TYPE_NETFILTER
from common.errors import Refusal
from common.input.files import read_bounded
from schemas.raw import Hook

Wanted = Literal["auto", "netfilter", "tc"]

# What Cilium's agent compiles its programs with; readable on the host and in its own pods.
CILIUM_CONFIG = Path("/run/cilium/state/globals/node_config.h")

# mov64 r0, NF_ACCEPT; exit
_ACCEPT = bytes.fromhex("b7000000010000009500000000000000")
_NFPROTO_IPV4, _POST_ROUTING = 2, 4
# No link may have this priority, so that nothing is attached: the kernel says ERANGE where it has such links at all.
_PRIORITY_REFUSED = -(2**31)


@dataclass(frozen=True, slots=True)
class Host:
    """What the choice depends on. `refusal`: why netfilter programs cannot be attached, empty if they can.

    `bypass`: what lets pods' packets bypass netfilter, empty where nothing is known to.
    """

    release: str
    refusal: str = ""
    bypass: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """The hook, and why it is not netfilter if nobody asked for tc."""

    hook: Hook
    why: str = ""


def choose(wanted: Wanted, host: Host) -> Choice:
    """Return the hook to use; raise `Refusal` where netfilter is asked for and cannot be had."""
    if wanted == "tc":
        return Choice("tc")
    if host.refusal:
        why = f"kernel {host.release}: {host.refusal}"
        if wanted == "netfilter":
            raise Refusal(f"hook = 'netfilter': {why}; expected auto or tc on this kernel")
        return Choice("tc", why)
    if host.bypass and wanted == "auto":
        return Choice("tc", f"{host.bypass}: pods' packets bypass netfilter")
    return Choice("netfilter")


def look() -> Host:
    """Look at this host; attaches nothing. Needs CAP_BPF and CAP_NET_ADMIN."""
    try:
        refusal = netfilter_refusal()
    except PermissionError as error:
        raise Refusal(f"this process may not load netfilter programs: {error.strerror}") from error
    return Host(platform.release(), refusal, bypass(netlink.read()[0], CILIUM_CONFIG))


def netfilter_refusal() -> str:
    """Load a netfilter program that accepts every packet, attach it nowhere, drop it again; say why that fails.

    Returns an empty string if it can be done; raises PermissionError if this process may not.
    """
    try:
        program = sys_bpf.prog_load(PROG_TYPE_NETFILTER, BPF_NETFILTER, _ACCEPT, "zm_probe")
    except PermissionError:
        raise
    except OSError as error:
        return f"netfilter programs are refused ({error.strerror}); they came with Linux 6.4"
    try:
        os.close(sys_bpf.netfilter_link_create(program, _NFPROTO_IPV4, _POST_ROUTING, _PRIORITY_REFUSED))
    except OSError as error:
        if error.errno != errno.ERANGE:
            return f"netfilter links are refused ({error.strerror}); CONFIG_NETFILTER_BPF_LINK is not set"
    finally:
        os.close(program)
    return ""


def bypass(links: Sequence[Link], cilium: Path) -> str:
    """Name by its devices and files the network plugin that lets pods' packets bypass netfilter; empty if none."""
    if any(link.name == "bpfin.cali" for link in links):
        return "Calico's eBPF data plane (device bpfin.cali)"
    if any(link.kind == "netkit" for link in links):
        return "netkit devices"
    if any(link.name == "cilium_host" for link in links):
        try:
            text = read_bounded(cilium).decode("utf-8", "replace")
        except OSError:
            return ""
        if re.search(r"^#define ENABLE_HOST_ROUTING\b", text, re.MULTILINE):
            return "Cilium routes in eBPF (ENABLE_HOST_ROUTING)"
    return ""
