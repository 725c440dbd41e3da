# SPDX-License-Identifier: Apache-2.0
"""How much work the programs are to the kernel's verifier, which gives up at a million instructions.

What it follows differs between kernels, and one branch more in a loop can multiply it: there must be room.
"""

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collector import bpf_syscall as sys_bpf
from collector import pins
from tests.collector import metered, netlab

BOUND = 1_000_000  # BPF_COMPLEXITY_LIMIT_INSNS
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


def verified_instructions(program: int) -> int:
    info = ctypes.create_string_buffer(256)
    sys_bpf.bpf(sys_bpf.Command.OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", program, len(info), ctypes.addressof(info)))
    return int(struct.unpack_from("<I", info.raw, VERIFIED_AT)[0])


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param({}, id="netfilter"),
        pytest.param({"direct_loads": False}, id="netfilter-by-helper"),
        pytest.param({"hook": "tc"}, id="tc"),
        pytest.param({"ports": "full"}, id="both-ports"),
        pytest.param({"cluster_cidrs": ["10.0.0.0/8"], "external_addresses": "prefix"}, id="folded-addresses"),
    ],
)
def test_there_is_room(root: Path, wanted: dict[str, Any]) -> None:
    answer = metered.load("verifier", metered.request(root, **wanted))
    path = pins.generation_dir(root, answer.generation) / "program"
    with pins.closing_fd(sys_bpf.obj_get(str(path))) as program:
        assert 1_000 < verified_instructions(program) < BOUND / 3
