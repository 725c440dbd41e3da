# SPDX-License-Identifier: Apache-2.0
"""What must be there before the collector can start; each thing that is not is one `Refusal` that says what to do."""

import ctypes
import os
import platform
import re
import sys
from pathlib import Path

from collector.host.privileges import effective_of, needed_to_load, needed_to_take_over
from common.errors import Refusal
from common.input.files import read_bounded
from schemas.raw import Hook

BPFFS = Path("/sys/fs/bpf")
_OLDEST_KERNEL = (5, 15)  # hook tc; netfilter's is a matter of collector/attach/hook.py
# RHEL 9's calls itself 5.14 and has the BPF of later ones; whether it is enough shows when the program is loaded.
_NAMED_OLDER = ".el9"
_MACHINES = ("x86_64", "aarch64")
_BPF_FS_MAGIC = 0xCAFE4A11  # include/uapi/linux/magic.h
_libc = ctypes.CDLL(None, use_errno=True)


def check_host(btf: Path = Path("/sys/kernel/btf/vmlinux"), *, loads: bool = True) -> None:
    """Raise `Refusal` unless this kernel can do it and this process may; `loads`: not what another has loaded."""
    check_kernel(platform.release(), platform.machine())
    check_capabilities(Path("/proc/self/status").read_text(), None if loads else "netfilter")
    if not btf.exists():
        raise Refusal(f"{btf} does not exist: a kernel with BTF is needed (CONFIG_DEBUG_INFO_BTF=y)")


def check_kernel(release: str, machine: str) -> None:
    """Raise `Refusal` for a kernel or a machine on which the hook does not work."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if not found or ((int(found[1]), int(found[2])) < _OLDEST_KERNEL and _NAMED_OLDER not in release):
        raise Refusal(f"kernel {release}: expected Linux 5.15 or later")
    if machine not in _MACHINES:
        raise Refusal(f"machine {machine}: expected one of {', '.join(_MACHINES)}")


def check_capabilities(status: str, taken_over: Hook | None = None) -> None:
    """Raise `Refusal` if a capability is missing; `status` is /proc/self/status.

    `taken_over`: the hook, if nothing is loaded but what another process loaded is taken over.
    """
    effective = effective_of(status)
    needed = needed_to_load(effective) if taken_over is None else needed_to_take_over(taken_over, effective)
    missing = sorted(each.name for each in needed if not effective >> each & 1)
    if missing and taken_over is None:
        raise Refusal(f"missing {', '.join(missing)}: run as root, or add CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")
    if missing:
        raise Refusal(f"missing {', '.join(missing)} for hook {taken_over}: run as root, or add it")


def check_bpffs(pin_dir: Path) -> None:
    """Raise `Refusal` unless `pin_dir` is, or can be made, on a bpffs; mount one at /sys/fs/bpf if we may."""
    if is_bpffs(pin_dir):
        return
    if BPFFS in pin_dir.parents and BPFFS.is_dir():
        if _libc.mount(b"bpf", str(BPFFS).encode(), b"bpf", 0, None) == 0:
            return
        reason = os.strerror(ctypes.get_errno())
        raise Refusal(
            f"pin_dir = {str(pin_dir)!r}: no bpffs there, and it cannot be mounted ({reason}): mount -t bpf bpf {BPFFS}"
        )
    raise Refusal(
        f"pin_dir = {str(pin_dir)!r}: not on a bpffs; expected a directory under one, such as {BPFFS}/zonemeter "
        f"(in a container: one that the host has mounted: mount -t bpf bpf {BPFFS})"
    )


def is_bpffs(pin_dir: Path) -> bool:
    """Return whether `pin_dir` is, or would be, beneath the root of a bpffs (statfs(2))."""
    above = next(path for path in pin_dir.parents if path.exists())
    found = ctypes.create_string_buffer(256)
    if _libc.statfs(str(above).encode(), found):
        return False
    return int.from_bytes(found.raw[:8], sys.byteorder) == _BPF_FS_MAGIC


def read_boot_id(path: Path) -> str:
    """Return the first 12 hex digits of the boot id; raise `Refusal` if there are none."""
    try:
        text = read_bounded(path).decode("ascii", "replace").strip().replace("-", "").lower()
    except OSError as error:
        raise Refusal(f"boot_id_file = {str(path)!r}: {error.strerror}") from error
    if not re.match(r"[0-9a-f]{12}", text):
        raise Refusal(f"boot_id_file = {str(path)!r}: {text[:40]!r} is not a boot id; expected at least 12 hex digits")
    return text[:12]
