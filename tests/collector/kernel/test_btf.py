# SPDX-License-Identifier: Apache-2.0
"""Offsets from the kernel's type information: the few types that are read tell the same as all of them."""

import subprocess
from pathlib import Path
from typing import get_args

import orjson
import pytest

from collector.errors import LoadError
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


def test_of_a_module_only_what_is_read_and_what_is_transparent_in_it() -> None:
    dump = b"""{"types":[{"id":7,"kind":"STRUCT","name":"nf_conn","size":8,"vlen":3,"members":[\
{"name":"(anon)","type_id":9,"bits_offset":0},{"name":"status","type_id":8,"bits_offset":32},\
{"name":"(anon)","type_id":2,"bits_offset":64}]},{"id":8,"kind":"STRUCT","name":"other","size":4,"members":[]},\
{"id":9,"kind":"UNION","name":"(anon)","size":4,"members":[{"name":"mark","type_id":8,"bits_offset":0}]}]}
"""
    every = {entry["id"]: entry for entry in orjson.loads(dump)["types"]}
    assert btf._read(dump) == {7: every[7], 9: every[9]}  # type 2 is the kernel's own, in another dump


@pytest.mark.parametrize(
    "said", ["", "{}", '{"types":[]}', '{"types":[{"id":x}]}', '{"types":[{"id":1,"name":"sk_buff"']
)
def test_what_bpftool_says_and_nobody_understands_is_one_line(
    said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "bpftool"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(LoadError, match="is not understood"):
        btf.kernel_flags("netfilter")
