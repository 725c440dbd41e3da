# SPDX-License-Identifier: Apache-2.0
"""The pin directory: what lies where on the bpffs, which generation counts, and how a generation goes away.

    dispatch      program array; slot 0 holds the program that counts
    dispatcher    the program that the links run
    link_*        one per family and hook, or per uplink and way; never replaced
    dispatch_tc, dispatcher_tc      the same for hook tc: an array takes programs of one type only
    clsact        hash map: the uplinks that have tc filters, where the kernel has no links for that
    namespace     network namespace that the links belong to
    barrier       array of maps; updating it, with barrier_element, waits for programs under way
    gen_N/        maps and program of generation N; `meta` is pinned last, so a directory without it is half made

bpffs takes no "." in names. This module knows no clock, no Kafka and no bcc.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import orjson

from collector.errors import RecordError
from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel.bpf_syscall import MapType
from schemas.codec import UNREADABLE
from schemas.ids import Origin
from schemas.raw import Hook

META_BYTES = 4096
# What every version's generation has: without one of them it can be neither counted with nor drained.
WHOLE = ("flows0", "flows1", "counters", "control", "records", "program")
DISPATCH: dict[Hook, str] = {"netfilter": "dispatch", "tc": "dispatch_tc"}
DISPATCHER: dict[Hook, str] = {"netfilter": "dispatcher", "tc": "dispatcher_tc"}
LINKS: dict[Hook, str] = {"netfilter": "link_ipv*", "tc": "link_tcx_*"}
_GENERATION = re.compile(r"gen_[0-9]{1,15}")
_NAMES = re.compile(
    r"dispatch(er)?(_tc)?|link_ipv[46]_(post_routing|local_in)|link_tcx_[0-9]+_(ingress|egress)|clsact|namespace"
    r"|barrier(_element)?"
)
_FIRST = bytes(4)  # key 0 of an array
_NAMESPACE_BYTES = 16
_BARRIER_BYTES = 8  # forever: an array of maps takes elements of one shape


@dataclass(frozen=True, slots=True)
class Meta:
    """What a generation is, written once. A change of any of it is a new generation."""

    digest: str
    generation: int
    cluster: str
    node: str
    boot_id: str
    hook: Hook = "netfilter"  # what the generations had that do not say
    # numpy's `descr` of its flows' "key" and of its "record", for the collector of another version; empty: this one's
    layout: dict[str, Any] = field(default_factory=dict)
    asked: str = ""  # digest of the part of it that is not the kernel's; empty: an earlier version's

    @property
    def origin(self) -> Origin:
        """The life of the node that its windows belong to."""
        return Origin(self.cluster, self.node, self.boot_id)


_meta_decoder = msgspec.json.Decoder(Meta)


def generation_dir(root: Path, generation: int) -> Path:
    """Return where a generation's objects are pinned."""
    return root / f"gen_{generation}"


def generations(root: Path) -> list[int]:
    """Return the numbers of all generations, half-made ones too, in order."""
    return sorted(int(path.name.removeprefix("gen_")) for path in root.glob("gen_*") if is_generation(path))


def is_generation(path: Path) -> bool:
    """Return whether this is a generation's directory, by its name."""
    return _GENERATION.fullmatch(path.name) is not None and path.is_dir()


def strangers(root: Path) -> list[str]:
    """Return the names of what is in the directory and is not zonemeter's: this version or another pins no such."""
    return sorted(path.name for path in root.iterdir() if not is_generation(path) and not _NAMES.fullmatch(path.name))


def read_meta(root: Path, generation: int) -> Meta | None:
    """Return what a generation is; None if it is half made or half removed. Raises `RecordError` for rubbish."""
    if not all((generation_dir(root, generation) / name).exists() for name in WHOLE):
        return None
    try:
        fd = sys_bpf.obj_get(str(generation_dir(root, generation) / "meta"))
    except FileNotFoundError:
        return None
    with closing_fd(fd):
        found = sys_bpf.map_lookup(fd, _FIRST, META_BYTES).rstrip(b"\0")
    try:
        meta = _meta_decoder.decode(found)  # a later version may say more
    except UNREADABLE as error:
        raise RecordError(f"{generation_dir(root, generation)}/meta: {error}: not zonemeter's") from error
    if meta.generation != generation:
        raise RecordError(f"{generation_dir(root, generation)}/meta is generation {meta.generation}'s")
    return meta


def pin_meta(root: Path, meta: Meta) -> None:
    """Declare a generation whole."""
    value = orjson.dumps(asdict(meta)).ljust(META_BYTES, b"\0")
    with closing_fd(sys_bpf.map_create(MapType.ARRAY, 4, META_BYTES, 1, "zm_meta")) as fd:
        sys_bpf.map_update(fd, _FIRST, value)
        sys_bpf.obj_pin(fd, str(generation_dir(root, meta.generation) / "meta"))


def has_dispatcher(root: Path, hook: Hook) -> bool:
    """Return whether a hook's dispatcher and its array are there."""
    return (root / DISPATCHER[hook]).exists() and (root / DISPATCH[hook]).exists()


def active_generation(root: Path) -> int | None:
    """Return the generation whose program stands in slot 0, None if none counts; of two hooks', the younger."""
    standing_ = {standing(root / name) for name in DISPATCH.values()}
    for generation in reversed(generations(root)):
        path = generation_dir(root, generation) / "program"
        if path.exists():
            with closing_fd(sys_bpf.obj_get(str(path))) as program:
                if sys_bpf.prog_id(program) in standing_:
                    return generation
    return None


def standing(dispatch: Path) -> int | None:
    """Return the id of the program in a dispatcher's slot, None if there is none."""
    try:
        fd = sys_bpf.obj_get(str(dispatch))
    except FileNotFoundError:
        return None
    with closing_fd(fd):
        try:
            return int.from_bytes(sys_bpf.map_lookup(fd, _FIRST, 4), "little")
        except KeyError:
            return None


def activate(root: Path, generation: int, hook: Hook) -> None:
    """Make a generation the one that counts, in one step; programs under way may still write to the one before."""
    with (
        closing_fd(sys_bpf.obj_get(str(root / DISPATCH[hook]))) as dispatch,
        closing_fd(sys_bpf.obj_get(str(generation_dir(root, generation) / "program"))) as program,
    ):
        sys_bpf.map_update(dispatch, _FIRST, program.to_bytes(4, "little"))


def deactivate(root: Path, hook: Hook) -> None:
    """Let nothing count at a hook."""
    with closing_fd(sys_bpf.obj_get(str(root / DISPATCH[hook]))) as dispatch:
        sys_bpf.map_delete(dispatch, _FIRST)


def remove_generation(root: Path, generation: int) -> None:
    """Unpin a generation; `meta` first, so that one half removed is not taken for whole."""
    directory = generation_dir(root, generation)
    if not directory.is_dir():  # somebody removed it meanwhile
        return
    (directory / "meta").unlink(missing_ok=True)
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


def remove_hook(root: Path, hook: Hook) -> None:
    """Remove a hook's links, its dispatcher and the dispatcher's array; tc filters are `clsact`'s, and gone before."""
    for path in root.glob(LINKS[hook]):
        path.unlink()
    for name in (DISPATCHER[hook], DISPATCH[hook], *(["clsact"] if hook == "tc" else [])):
        (root / name).unlink(missing_ok=True)


def detach(root: Path) -> None:
    """Stop counting and remove everything of zonemeter's; what was not published is given up. Links go first."""
    if not root.is_dir():
        return
    for hook in DISPATCH:
        remove_hook(root, hook)
    for generation in generations(root):
        remove_generation(root, generation)
    for name in ("barrier", "barrier_element", "namespace"):
        (root / name).unlink(missing_ok=True)
    root.rmdir()


def pin_barrier(root: Path) -> None:
    """Make the map whose update is the barrier, and its only element, if they are not there."""
    element, outer = root / "barrier_element", root / "barrier"
    if not element.exists():
        with closing_fd(sys_bpf.map_create(MapType.ARRAY, 4, _BARRIER_BYTES, 1, "zm_barrier_el")) as fd:
            sys_bpf.obj_pin(fd, str(element))
    if not outer.exists():
        with (
            closing_fd(sys_bpf.obj_get(str(element))) as inner,
            closing_fd(sys_bpf.map_create(MapType.ARRAY_OF_MAPS, 4, 4, 1, "zm_barrier", inner)) as fd,
        ):
            sys_bpf.obj_pin(fd, str(outer))


def network_namespace() -> bytes:
    """Return what tells this process's network namespace from others on the machine."""
    found = Path("/proc/thread-self/ns/net").stat()
    return found.st_dev.to_bytes(8, "little") + found.st_ino.to_bytes(8, "little")


def pinned_namespace(root: Path) -> bytes | None:
    """Return the network namespace that the pinned links belong to, None if there are none yet."""
    try:
        fd = sys_bpf.obj_get(str(root / "namespace"))
    except FileNotFoundError:
        return None
    with closing_fd(fd):
        return sys_bpf.map_lookup(fd, _FIRST, _NAMESPACE_BYTES)


def pin_namespace(root: Path) -> None:
    """Remember this process's network namespace as the links'."""
    with closing_fd(sys_bpf.map_create(MapType.ARRAY, 4, _NAMESPACE_BYTES, 1, "zm_namespace")) as fd:
        sys_bpf.map_update(fd, _FIRST, network_namespace())
        sys_bpf.obj_pin(fd, str(root / "namespace"))


@contextlib.contextmanager
def closing_fd(fd: int) -> Iterator[int]:
    """Close a file descriptor at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)
