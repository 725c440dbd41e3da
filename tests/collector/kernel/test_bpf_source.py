# SPDX-License-Identifier: Apache-2.0
"""The C sources as one text: every header once, and the compiler's messages true to the files."""

import re

import pytest

from collector.kernel import bpf_source

PROGRAMS = ["netfilter.c", "dispatcher.c", "tc.c", "tc_dispatcher.c"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_line_stands_where_its_marker_says(name: str) -> None:
    files = {path.name: path.read_text().splitlines() for path in bpf_source.SOURCES.glob("*.[ch]")}
    seen: set[tuple[str, int]] = set()
    at, number = "", 0
    for line in bpf_source.read(name).splitlines():
        if marker := re.fullmatch(r'#line (\d+) "(.+)"', line):
            at, number = marker[2], int(marker[1])
            continue
        if line:
            assert line == files[at][number - 1]
            assert (at, number) not in seen
            seen.add((at, number))
        number += 1
    left_out = {
        line for file in {at for at, _ in seen} for n, line in enumerate(files[file], 1) if (file, n) not in seen
    }
    assert all(not line or line == "#pragma once" or line.startswith('#include "') for line in left_out)


def test_both_programs_share_all_headers_but_their_hooks_own() -> None:
    markers = {
        name: set(re.findall(r'^#line 1 "(.+)"$', bpf_source.read(name), re.MULTILINE)) - {name} for name in PROGRAMS
    }
    headers = {path.name for path in bpf_source.SOURCES.glob("*.h")}
    assert markers["netfilter.c"] | markers["tc.c"] == headers
    assert {"parse.h", "wire.h", "ports.h", "conntrack.h", "account.h"} <= markers["netfilter.c"] & markers["tc.c"]
