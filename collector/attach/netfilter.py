# SPDX-License-Identifier: Apache-2.0
"""netfilter's links: four, made once, as they see every device; while their pins are there they count."""

import errno
from pathlib import Path

from collector.errors import LoadError
from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import pins

# NFPROTO_*, enum nf_inet_hooks and the priorities: before source NAT (100) where a packet leaves, behind the filter
# and IPVS where it comes in. The steps lead away from 100 if another BPF program has that priority.
_NFPROTO = {"ipv4": 2, "ipv6": 10}
_HOOKS = {"post_routing": (4, 99, -1), "local_in": (1, 101, 1)}
_PRIORITIES_TRIED = 8


def attach(root: Path) -> list[str]:
    """Make what is missing of the links, and return the names of what was; raise `LoadError`."""
    paths = {root / f"link_{family}_{hook}": (family, hook) for family in _NFPROTO for hook in _HOOKS}
    missing = {path: place for path, place in paths.items() if not path.exists()}
    with pins.closing_fd(sys_bpf.obj_get(str(root / pins.DISPATCHER["netfilter"]))) as dispatcher:
        for path, place in missing.items():
            with pins.closing_fd(_link(dispatcher, *place)) as link:
                sys_bpf.obj_pin(link, str(path))
    return [path.name for path in missing]


def _link(dispatcher: int, family: str, hook: str) -> int:
    number, priority, step = _HOOKS[hook]
    for attempt in range(_PRIORITIES_TRIED):
        try:
            return sys_bpf.netfilter_link_create(dispatcher, _NFPROTO[family], number, priority + attempt * step)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise LoadError(
                    f"the kernel refused to attach to {family} {hook}: {error}; Linux 6.4 with "
                    "CONFIG_NETFILTER_BPF_LINK is needed"
                ) from error
    raise LoadError(f"{family} {hook}: BPF programs have all priorities from {priority} on: bpftool net lists them")
