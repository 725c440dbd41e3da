# SPDX-License-Identifier: Apache-2.0
"""What counts, looked at with every window: its pins, its links and the program in its slot. What is gone is put back.

All that is pinned is held open as well. So removing the pins, as root with `rm` or `find -delete`, stops nothing while
a collector is there: what they stood for is pinned again, and not a packet was missed. A link, a filter or a program
that was detached did not count until it was put back; since when, the kernel does not tell.
"""

import errno
import logging
import os
import resource
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from collector.attach import tc
from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import pin_owner, pins
from common.errors import Refusal
from schemas.raw import Hook

log = logging.getLogger(__name__)

# Open files for everything else: connections to brokers and to --listen, the maps while they are read.
OTHER_DESCRIPTORS = 256
_LINK = "link_"


@dataclass(frozen=True, slots=True)
class Missing:
    """What was found missing, by name, and put back. `pins`: nothing was missed; `detached`: it did not count.

    `wrong`: why something is missing still, empty if nothing is.
    """

    pins: tuple[str, ...] = ()
    detached: tuple[str, ...] = ()
    wrong: str = ""

    def __add__(self, later: "Missing") -> "Missing":
        return Missing(self.pins + later.pins, self.detached + later.detached, later.wrong)


class Attachment:
    """One hook's pins and links under a pin directory, with the generation that counts there."""

    def __init__(self, root: Path, generation: int, hook: Hook, *, use_tcx: bool | None = None) -> None:
        self._root, self._generation, self._hook = root, generation, hook
        self._use_tcx = use_tcx
        self._held: dict[Path, int] = {}
        self._not_held = 0
        self.hold()

    def hold(self) -> None:
        """Hold what is pinned now and nothing else: after every change of it that is the collector's own.

        Where the limit of open files does not allow all, as with thousands of uplinks at tc, of the links as many as
        it does.
        """
        directories = (pins.generation_dir(self._root, self._generation), self._root)
        found = [path for directory in directories for path in directory.iterdir() if not path.is_dir()]
        found.sort(key=lambda path: path.name.startswith(_LINK))
        room = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_DESCRIPTORS, 0)
        paths = set(found[:room])
        self._say_not_held(len(found) - len(paths), room)
        for path in self._held.keys() - paths:
            os.close(self._held.pop(path))
        for path in paths:
            descriptor = sys_bpf.obj_get(str(path))
            if path in self._held:
                os.close(self._held[path])
            self._held[path] = descriptor

    def _say_not_held(self, count: int, room: int) -> None:
        if count and count != self._not_held:
            log.warning(
                "%d pins are not held open: RLIMIT_NOFILE leaves room for %d; all count all the same, but one of these "
                "that somebody removes does not until it is attached again",
                *(count, room),
            )
        self._not_held = count

    def close(self) -> None:
        """Let go of everything; the pins stay."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    def look(self, uplinks: Iterable[int]) -> Missing:
        """Return what was missing, after putting it back. `uplinks`: what tc is attached to, if that is the hook."""
        again: list[str] = []
        detached: list[str] = []
        try:
            self._pin_again(again)
            self._activate_again(detached)
            # Links are made in the namespace of who makes them: elsewhere nobody can tell, or help.
            if pins.pinned_namespace(self._root) == pins.network_namespace():
                attach = self._attach_again if self._hook == "netfilter" else lambda found: self._tc(found, uplinks)
                attach(detached)
        except (OSError, Refusal) as error:
            return Missing(tuple(again), tuple(detached), f"what was removed cannot be put back: {error}")
        return Missing(tuple(again), tuple(detached))

    def _pin_again(self, done: list[str]) -> None:
        gone = [path for path in self._held if not path.exists()]
        if not gone:
            return
        pin_owner.make(self._root)
        pin_owner.check(self._root, self._root.stat())
        for path in sorted(gone, key=lambda path: path.name == "meta"):  # `meta` last: with it a generation is whole
            path.parent.mkdir(mode=0o700, exist_ok=True)
            sys_bpf.obj_pin(self._held[path], str(path))
            done.append(str(path.relative_to(self._root)))

    def _activate_again(self, done: list[str]) -> None:
        with pins.closing_fd(sys_bpf.obj_get(str(pins.generation_dir(self._root, self._generation) / "program"))) as fd:
            if pins.standing(self._root / pins.DISPATCH[self._hook]) == sys_bpf.prog_id(fd):
                return
        pins.activate(self._root, self._generation, self._hook)
        done.append("program")

    def _attach_again(self, done: list[str]) -> None:
        """Attach each link's program once more in its place: the kernel refuses that if the link is attached."""
        with pins.closing_fd(sys_bpf.obj_get(str(self._root / pins.DISPATCHER["netfilter"]))) as dispatcher:
            for path in sorted(self._root.glob(pins.LINKS["netfilter"])):
                with pins.closing_fd(sys_bpf.obj_get(str(path))) as link:
                    place = sys_bpf.netfilter_link_place(link)
                try:
                    made = sys_bpf.netfilter_link_create(dispatcher, *place)
                except OSError as error:
                    if error.errno == errno.EBUSY:
                        continue
                    raise
                with pins.closing_fd(made):
                    path.unlink()
                    sys_bpf.obj_pin(made, str(path))
                done.append(path.name)
        if done:
            self.hold()

    def _tc(self, done: list[str], uplinks: Iterable[int]) -> None:
        missing = [ifindex for ifindex in tc.missing(self._root, uplinks) if _is_there(ifindex)]
        if missing:
            done.extend(f"tc on device {ifindex}" for ifindex in missing)
            tc.attach(self._root, missing, use_tcx=self._use_tcx)
            self.hold()


def _is_there(ifindex: int) -> bool:
    try:
        return bool(socket.if_indextoname(ifindex))
    except OSError:
        return False
