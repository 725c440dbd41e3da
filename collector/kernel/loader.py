# SPDX-License-Identifier: Apache-2.0
"""Compile, load and pin the kernel side, then end: the only process that imports bcc (LLVM costs 70 MB by import).

    python -m collector.kernel.loader <request.json >answer.json

It makes generations, it never lets one count: activating is the collector's, who first writes the records and the
sets. What is pinned already with the same digest is reused without compiling. Exit status 2 and one line on stderr
where the kernel or the pin directory does not allow it.
"""

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from collector.errors import LoadError
from collector.kernel import bpf_source, btf, epoch_record, layout, networks, pins
from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel.bpf_syscall import BPF_NETFILTER, PROG_TYPE_NETFILTER, PROG_TYPE_SCHED_CLS, MapType
from collector.kernel.epoch_record import Phase
from collector.kernel.generation import Generation, possible_cpus_here
from collector.kernel.load_request import Answer, Request
from collector.kernel.pinned import PROGRAMS, asked_of, check_namespace, digest_of
from schemas.raw import Hook

_DISPATCHERS: dict[Hook, str] = {"netfilter": "dispatcher.c", "tc": "tc_dispatcher.c"}


def load(request: Request) -> Answer:
    """Return a whole generation for this request, made if need be; raise `LoadError`."""
    root = Path(request.pin_dir)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_namespace(root)
    flags = btf.kernel_flags(request.hook) | layout.compile_flags()
    digest = digest_of(request, flags)
    _remove_broken_dispatcher(root, request.hook)
    active = pins.active_generation(root)
    meta = None if active is None else pins.read_meta(root, active)
    if active is None or meta is None or meta.digest != digest:
        _remove_never_activated(root, active)
        number = next_generation(max(pins.generations(root), default=None))
        described = {"key": layout.KEY.descr, "record": epoch_record.RECORD.descr}
        meta = pins.Meta(
            digest, number, request.cluster, request.node, request.boot_id, request.hook, described, asked_of(request)
        )
        _make_generation(root, request, flags, meta)
    pins.pin_barrier(root)
    _make_dispatcher(root, request.hook, flags)
    return Answer(meta.generation, active=meta.generation == active)


def next_generation(last: int | None) -> int:
    """Return a number that no generation of this boot has had, also if the pins were removed: seconds since boot."""
    return max(int(time.clock_gettime(time.CLOCK_BOOTTIME)), 1 if last is None else last + 1)


def _remove_never_activated(root: Path, active: int | None) -> None:
    """Remove what was made and never counted. Where none counts, one may have until a moment ago, at another hook."""
    for generation in pins.generations(root):
        if generation > active if active is not None else not _has_ended(root, generation):
            pins.remove_generation(root, generation)


def _has_ended(root: Path, generation: int) -> bool:
    """Return whether a generation has a window that is over: one to be published, or to be cleared."""
    meta = pins.read_meta(root, generation)
    if meta is None:
        return False
    with contextlib.closing(Generation(root, meta)) as opened:
        found = [opened.read(epoch) for epoch in (0, 1)]
    return any(record.phase in (Phase.FROZEN, Phase.ACKED) or record.end_ms for record in found)


def _make_generation(root: Path, request: Request, flags: dict[str, int], meta: pins.Meta) -> None:
    """Make it by direct loads where the kernel should take them, else by the helper, which all of them take."""
    if request.direct_loads and "K_RDONLY_CAST" in flags:
        try:
            _try_generation(root, request, {**flags, "DIRECT_LOADS": 1}, meta)
            return
        except LoadError as error:
            sys.stderr.write(f"{error}; by direct loads, that is: trying without\n")
            pins.remove_generation(root, meta.generation)
    _try_generation(root, request, flags, meta)


def _try_generation(root: Path, request: Request, flags: dict[str, int], meta: pins.Meta) -> None:
    directory = pins.generation_dir(root, meta.generation)
    directory.mkdir(mode=0o700)
    defines: dict[str, int | str] = {**flags, "PIN_GENERATION": f'"{directory}"'}
    defines["FLOW_ENTRIES"] = layout.entries_for(request.map_memory)
    cpus = possible_cpus_here()
    bits = layout.fast_bits(request.map_memory, cpus)
    if bits is not None:
        defines |= {"FAST_BITS": bits, "FAST_CPUS": cpus}
    if request.ports == "full":
        defines["PORTS_FULL"] = 1
    asked = _networks(request)
    if asked:
        defines["NETWORK_ENTRIES"] = len(asked)
    if request.cluster_cidrs:
        defines["CLUSTER_CIDRS"] = 1
    if request.external_addresses != "full":
        defines["FOLD_LENGTH"] = networks.FOLD_LENGTHS[request.external_addresses]
    program = _compile(PROGRAMS[request.hook], defines)
    if request.ports == "service":
        sys_bpf.map_update(program[b"services"].map_fd, bytes(4), layout.port_bits(request.service_ports))
    for (length, address), bits in asked.items():
        sys_bpf.map_update(program[b"networks"].map_fd, length.to_bytes(4, "little") + address, bytes([bits]))
    with pins.closing_fd(sys_bpf.map_create(MapType.ARRAY, 4, epoch_record.RECORD_BYTES, 2, "zm_records")) as fd:
        sys_bpf.obj_pin(fd, str(directory / "records"))
    if "DIRECT_LOADS" in flags:
        _mark_kfunc(program, b"flows", flags["K_RDONLY_CAST"])
    sys_bpf.obj_pin(_load_program(program, b"flows", request.hook), str(directory / "program"))
    pins.pin_meta(root, meta)


def _networks(request: Request) -> dict[tuple[int, bytes], int]:
    if not request.cluster_cidrs and request.external_addresses == "full":
        return {}
    return networks.entries(networks.parse_networks(",".join(request.cluster_cidrs)))


def _remove_broken_dispatcher(root: Path, hook: Hook) -> None:
    """Remove what is left of a dispatcher whose program or array somebody unpinned, and the links to it.

    They would run a program that nobody can tell any more what to count with.
    """
    if not pins.has_dispatcher(root, hook):
        for path in (*root.glob(pins.LINKS[hook]), root / pins.DISPATCHER[hook], root / pins.DISPATCH[hook]):
            path.unlink(missing_ok=True)


def _make_dispatcher(root: Path, hook: Hook, flags: dict[str, int]) -> None:
    """Make a hook's dispatcher if it is missing.

    bcc never opens a map that is pinned already: it would do so by its id, which only CAP_SYS_ADMIN may.
    """
    dispatcher = root / pins.DISPATCHER[hook]
    if not dispatcher.exists():
        program = _compile(_DISPATCHERS[hook], flags | {"PIN_ROOT": f'"{root}"'})
        sys_bpf.obj_pin(_load_program(program, b"dispatcher", hook), str(dispatcher))
    if pins.pinned_namespace(root) is None:
        pins.pin_namespace(root)


def _compile(source: str, defines: Mapping[str, int | str]) -> Any:
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_source.SOURCES / "stub")
    try:
        from bcc import BPF
    except ImportError as error:
        raise LoadError(f"bcc cannot be imported by {sys.executable} (Debian: python3-bpfcc): {error}") from error
    cflags = [f"-D{name}={value}" for name, value in defines.items()]
    try:
        return BPF(text=bpf_source.read(source), cflags=cflags)
    except Exception as error:  # bcc raises nothing more special
        raise LoadError(f"bcc cannot compile {source} or make its maps: {error}; its own words stand above") from error


def _mark_kfunc(program: Any, name: bytes, number: int) -> None:
    """Tell the verifier that calls of this number are of a kernel function with that BTF id, not of a helper.

    bcc cannot: its compiler writes a call of a number only as a helper's. No helper's number is as high.
    """
    from bcc.libbcc import lib

    start, size = lib.bpf_function_start(program.module, name), lib.bpf_function_size(program.module, name)
    code = bytearray(ctypes.string_at(start, size))
    for at in range(0, size, sys_bpf.INSTRUCTION.size):
        opcode, _, offset, immediate = sys_bpf.INSTRUCTION.unpack_from(code, at)
        if opcode == sys_bpf.CALL and immediate == number:
            sys_bpf.INSTRUCTION.pack_into(code, at, opcode, sys_bpf.PSEUDO_KFUNC_CALL << 4, offset, immediate)
    ctypes.memmove(start, bytes(code), size)


def _load_program(program: Any, name: bytes, hook: Hook) -> int:
    try:
        if hook == "tc":
            return int(program.load_func(name, PROG_TYPE_SCHED_CLS).fd)
        return int(program.load_func(name, PROG_TYPE_NETFILTER, attach_type=BPF_NETFILTER).fd)
    except Exception as error:  # as above
        raise LoadError(f"the kernel refused the program: {error}") from error


def main() -> int:
    """Answer the request on stdin; exit status 2 and one line if that cannot be done."""
    try:
        request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
        sys.stdout.buffer.write(msgspec.json.encode(load(request)))
    except (LoadError, msgspec.DecodeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
