# SPDX-License-Identifier: Apache-2.0
"""The programs that the hook is compared with: what they leave out is what the program's source has."""

import pytest

from bench.node.altered_loader import ALTERED, LEFT_OUT, altered
from collector.kernel import bpf_source


@pytest.mark.parametrize("name", [*ALTERED, "bare", "peer", "roomy_peer"])
def test_an_altered_program_is_another_one(name: str) -> None:
    source = bpf_source.read("netfilter.c")
    assert altered(source, name) != source


def test_bare_leaves_out_all_that_is_left_out_by_itself() -> None:
    bare = altered(bpf_source.read("netfilter.c"), "bare")
    assert [name for name in LEFT_OUT if ALTERED[name][0] in bare] == []


def test_what_the_source_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="the program has no"):
        altered("int flows(struct nf_ctx *ctx) {", "no_wire")
