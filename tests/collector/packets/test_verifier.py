# SPDX-License-Identifier: Apache-2.0
"""How much work the programs are to the kernel's verifier, which gives up at a million instructions.

What it follows differs between kernels, and one branch more in a loop can multiply it: there must be room.
"""

import ctypes
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import pins
from collector.kernel.load_request import Answer
from tests.support.collector import metered, netlab

BOUND = 1_000_000  # BPF_COMPLEXITY_LIMIT_INSNS
# The loader of a kernel that knows the call no more.
UNKNOWN_KFUNC = """
import sys
from collector.kernel import btf, loader
flags = btf.kernel_flags
btf.kernel_flags = lambda hook: flags(hook) | {"K_RDONLY_CAST": 1_000_000_000}
sys.exit(loader.main())
"""
VERIFIED_AT = 216  # offset of verified_insns in struct bpf_prog_info (include/uapi/linux/bpf.h), since 5.16


@pytest.fixture
def root() -> Iterator[Path]:
    made = metered.pin_dir("verifier")
    netlab.add_namespace("verifier")
    try:
        yield made
    finally:
        pins.detach(made)
        netlab.tear_down()


def verified(root: Path, answer: Answer) -> int:
    path = pins.generation_dir(root, answer.generation) / "program"
    with pins.closing_fd(sys_bpf.obj_get(str(path))) as program:
        return verified_instructions(program)


def verified_instructions(program: int) -> int:
    info = ctypes.create_string_buffer(256)
    sys_bpf.bpf(sys_bpf.BpfCommand.OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", program, len(info), ctypes.addressof(info)))
    return int(struct.unpack_from("<I", info.raw, VERIFIED_AT)[0])


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param({}, id="netfilter"),
        pytest.param({"direct_loads": False}, id="netfilter-by-helper"),
        pytest.param({"hook": "tc"}, id="tc"),
        pytest.param({"hook": "tc", "direct_loads": False}, id="tc-by-helper"),
        pytest.param({"ports": "full"}, id="both-ports"),
        pytest.param({"cluster_cidrs": ["10.0.0.0/8"], "external_addresses": "prefix"}, id="folded-addresses"),
    ],
)
def test_there_is_room(root: Path, wanted: dict[str, Any]) -> None:
    answer, said = metered.loaded("verifier", metered.request(root, **wanted), *metered.LOADER)
    assert 1_000 < verified(root, answer) < BOUND / 3
    assert said == ""


def test_a_kernel_that_refuses_direct_loads_gets_the_helper(root: Path) -> None:
    by_helper = verified(
        root, metered.loaded("verifier", metered.request(root, direct_loads=False), *metered.LOADER)[0]
    )
    answer, said = metered.loaded("verifier", metered.request(root), sys.executable, "-c", UNKNOWN_KFUNC)
    assert verified(root, answer) == by_helper
    assert said.splitlines()[-1].endswith("Invalid argument; by direct loads, that is: trying without")
