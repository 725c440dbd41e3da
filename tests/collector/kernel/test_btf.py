# SPDX-License-Identifier: Apache-2.0
"""Offsets from the kernel's type information: the few types that are read tell the same as all of them."""

import subprocess
from typing import get_args

import orjson
import pytest

from collector.kernel import btf
from schemas.raw import Hook


def every_type(module: str) -> btf.Types:
    base = [] if module == "vmlinux" else ["-B", str(btf.BTF / "vmlinux")]
    command = ["bpftool", *base, "-j", "btf", "dump", "file", str(btf.BTF / module)]
    done = subprocess.run(command, capture_output=True, check=True)
    return {entry["id"]: entry for entry in orjson.loads(done.stdout)["types"]}


def test_the_types_that_are_read_are_those_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {hook: btf.kernel_flags(hook) for hook in get_args(Hook)}
    monkeypatch.setattr(btf, "_dump", every_type)
    assert found == {hook: btf.kernel_flags(hook) for hook in get_args(Hook)}
    assert "K_RDONLY_CAST" in found["tc"]
