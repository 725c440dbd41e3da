# SPDX-License-Identifier: Apache-2.0
"""Capabilities given up for good once the program is loaded: what a long life does not need, it should not have.

Linux keeps them by thread, and those that run keep theirs. So the collector gives them up in its main thread and lets
the threads that did the loading end; all others are started by it later.
"""

import ctypes
import os
import re
from enum import IntEnum
from pathlib import Path

from schemas.raw import Hook

_libc = ctypes.CDLL(None, use_errno=True)

_VERSION_3 = 0x20080522  # include/uapi/linux/capability.h
_PR_SET_NO_NEW_PRIVS = 38  # include/uapi/linux/prctl.h
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4


class Capability(IntEnum):
    """include/uapi/linux/capability.h."""

    CAP_DAC_READ_SEARCH = 2
    CAP_NET_ADMIN = 12
    CAP_SYS_ADMIN = 21
    CAP_PERFMON = 38
    CAP_BPF = 39


def needed_to_load(effective: int) -> set[Capability]:
    """Return the capabilities for loading and attaching, of those held: SYS_ADMIN stands for BPF and PERFMON."""
    if effective >> Capability.CAP_SYS_ADMIN & 1:
        return {Capability.CAP_NET_ADMIN}
    return {Capability.CAP_NET_ADMIN, Capability.CAP_PERFMON, Capability.CAP_BPF}


def needed_to_take_over(hook: Hook, effective: int) -> set[Capability]:
    """Return the capabilities for counting with what another process loaded, of those held, as above."""
    needed = set() if effective >> Capability.CAP_SYS_ADMIN & 1 else {Capability.CAP_BPF}
    return needed | ({Capability.CAP_NET_ADMIN} if hook == "tc" else set())


def needed_to_stay(hook: Hook, effective: int) -> set[Capability]:
    """Return what draining takes: bpf(2) on pinned maps, which below Linux 5.19 asks for a capability at all.

    tc is attached to uplinks that come later. Reading files is kept where it was given (outside of containers), because
    Kafka's passwords and keys are read again with every new client, no matter who owns them; what is written is root's.
    """
    kept = {Capability.CAP_DAC_READ_SEARCH}
    kept.add(Capability.CAP_BPF if effective >> Capability.CAP_BPF & 1 else Capability.CAP_SYS_ADMIN)
    if hook == "tc":
        kept.add(Capability.CAP_NET_ADMIN)
    return kept


def effective_of(status: str) -> int:
    """Return the effective set as a mask; `status` is a /proc/.../status."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return int(found[1], 16) if found else 0


def effective() -> int:
    """Return this thread's effective set as a mask."""
    return effective_of(Path("/proc/thread-self/status").read_text())


def keep_only(wanted: set[Capability]) -> None:
    """Give up every capability but these, of this thread and of all that it starts, programs that it runs included.

    Raises OSError; giving up needs no right.
    """
    mask = effective() & sum(1 << capability for capability in wanted)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    # Twice (effective, permitted, inheritable): the low and the high 32 bits.
    sets = (ctypes.c_uint32 * 6)(mask & 0xFFFFFFFF, mask & 0xFFFFFFFF, 0, mask >> 32, mask >> 32, 0)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "PR_CAP_AMBIENT")
    _check(_libc.capset(header, sets), "capset")


def _check(result: int, call: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
