# SPDX-License-Identifier: Apache-2.0
"""The loader, which compiles a program once for all tests.

Reading the kernel's types and compiling are three quarters of what a load costs. So what came of that is kept in a
directory: the types' offsets, the maps' shapes and the instructions. From the second time on the same maps are
created and pinned, and the same instructions loaded, by system calls: the kernel's verifier, the generation, its pins
and its records are the loader's. Tests that are about the loader itself run that.
"""

import functools
import hashlib
import os
import pickle
import struct
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from collector.errors import LoadError
from collector.kernel import bpf_source, btf, loader
from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel.load_request import Answer, Request
from lab.network import namespaces
from schemas.raw import Hook
from tests.support.forked import FORKS

_compile, _mark_kfunc, _load_program = loader._compile, loader._mark_kfunc, loader._load_program
_kernel_flags = btf.kernel_flags

# Of the two instructions that load a map's address the first (BPF_LD | BPF_IMM | BPF_DW), and BPF_PSEUDO_MAP_FD.
_LOAD_MAP = (0x18, 1)
# struct bpf_map_info: type, id, bytes of a key, bytes of a value, entries, flags.
_INFO = struct.Struct("<6I")


def load(namespace: str, directory: Path, wanted: Request) -> Answer:
    """Run it as a process in a network namespace, with what is kept in the directory."""
    here, there = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_answer, args=(namespace, directory, wanted, there))
    process.start()
    there.close()
    answer = here.recv()
    process.join()
    assert isinstance(answer, Answer), answer
    return answer


def _answer(namespace: str, directory: Path, wanted: Request, asker: Connection) -> None:
    vars(btf)["kernel_flags"] = functools.partial(_flags, directory)
    vars(loader).update(_compile=functools.partial(_compiled, directory), _mark_kfunc=_marked, _load_program=_loaded)
    try:
        namespaces.move(namespace)
        asker.send(loader.load(wanted))
    except (LoadError, OSError) as error:
        asker.send(repr(error))


class _Kept:
    """As much of bcc's program as the loader asks for, of one that was kept."""

    def __init__(self, path: Path, pins: Path) -> None:
        maps, self.code, places = pickle.loads(path.read_bytes())
        self._maps = {name.encode(): _new_map(pins / name, *shape) for name, shape in maps.items()}
        for at, name in places:
            struct.pack_into("<i", self.code, at + 4, self[name.encode()].map_fd)

    def __getitem__(self, name: bytes) -> SimpleNamespace:
        return SimpleNamespace(map_fd=self._maps[name])


def _new_map(path: Path, kind: int, _: int, key: int, value: int, entries: int, flags: int) -> int:
    attributes = struct.pack("<7I16s", kind, key, value, entries, flags, 0, 0, path.name.encode())
    fd = sys_bpf.bpf(sys_bpf.BpfCommand.MAP_CREATE, attributes)
    sys_bpf.obj_pin(fd, str(path))
    return fd


def _keep(path: Path, program: Any, name: bytes) -> None:
    maps = {pin.name: _INFO.unpack_from(sys_bpf._info(sys_bpf.obj_get(str(pin)))) for pin in program.pinned}
    names = {shape[1]: name for name, shape in maps.items()}
    code = bytearray(program.dump_func(name))
    found = [(at, *sys_bpf.INSTRUCTION.unpack_from(code, at)) for at in range(0, len(code), sys_bpf.INSTRUCTION.size)]
    places = [
        (at, names[_INFO.unpack_from(sys_bpf._info(fd))[1]])
        for at, opcode, registers, _, fd in found
        if (opcode, registers >> 4) == _LOAD_MAP
    ]
    _write(path, (maps, code, places))


def _write(path: Path, content: object) -> None:
    """Write it whole: other processes load meanwhile."""
    begun = path.with_suffix(f".{os.getpid()}")
    begun.write_bytes(pickle.dumps(content))
    begun.rename(path)


def _flags(directory: Path, hook: Hook) -> dict[str, int]:
    path = directory / hook
    if not path.exists():
        _write(path, _kernel_flags(hook))
    found: dict[str, int] = pickle.loads(path.read_bytes())
    return found


def _compiled(directory: Path, source: str, defines: Mapping[str, int | str]) -> Any:
    (pins,) = (Path(str(value).strip('"')) for name, value in defines.items() if name.startswith("PIN_"))
    flags = sorted(each for each in defines.items() if not each[0].startswith("PIN_"))
    path = directory / hashlib.sha256(repr((bpf_source.read(source), flags)).encode()).hexdigest()
    if path.exists():
        return _Kept(path, pins)
    before = {*pins.iterdir()}
    program = _compile(source, defines)
    program.kept_at, program.pinned = path, {*pins.iterdir()} - before
    return program


def _marked(program: Any, name: bytes, number: int) -> None:
    if not isinstance(program, _Kept):
        _mark_kfunc(program, name, number)


def _loaded(program: Any, name: bytes, hook: Hook) -> int:
    if not isinstance(program, _Kept):
        loaded = _load_program(program, name, hook)
        _keep(program.kept_at, program, name)
        return loaded
    kind, at = (
        (sys_bpf.PROG_TYPE_SCHED_CLS, 0) if hook == "tc" else (sys_bpf.PROG_TYPE_NETFILTER, sys_bpf.BPF_NETFILTER)
    )
    return sys_bpf.prog_load(kind, at, bytes(program.code), name.decode())
