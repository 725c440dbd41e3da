# SPDX-License-Identifier: Apache-2.0
"""Which hook a node gets: a table, and this machine."""

import pytest

from collector.attach import hook
from collector.attach.hook import Choice, Host
from common.errors import Refusal

OLD = Host("5.15.0-105-generic", refusal="netfilter programs are refused (Invalid argument); they came with Linux 6.4")
NO_LINKS = Host("6.8.0", refusal="netfilter links are refused (Invalid argument); CONFIG_NETFILTER_BPF_LINK is not set")
PLAIN = Host("6.8.0")
CALICO = Host("6.8.0", bypass="Calico's eBPF data plane (device bpfin.cali)")


@pytest.mark.parametrize(
    ("wanted", "host", "taken", "why"),
    [
        pytest.param("auto", PLAIN, "netfilter", "", id="auto"),
        pytest.param("auto", OLD, "tc", "kernel 5.15.0-105-generic: netfilter programs are refused", id="auto, old"),
        pytest.param("auto", NO_LINKS, "tc", "CONFIG_NETFILTER_BPF_LINK is not set", id="auto, no links"),
        pytest.param("auto", CALICO, "tc", "Calico's eBPF data plane", id="auto, bypassed"),
        pytest.param("netfilter", PLAIN, "netfilter", "", id="netfilter"),
        pytest.param("netfilter", CALICO, "netfilter", "", id="netfilter, bypassed: as told"),
        pytest.param("tc", PLAIN, "tc", "", id="tc"),
        pytest.param("tc", OLD, "tc", "", id="tc, old"),
        pytest.param("tc", CALICO, "tc", "", id="tc, bypassed"),
    ],
)
def test_the_choice(wanted: hook.Wanted, host: Host, taken: str, why: str) -> None:
    choice = hook.choose(wanted, host)
    assert choice.hook == taken
    assert why in choice.why
    assert bool(choice.why) == bool(why)


@pytest.mark.parametrize("host", [OLD, NO_LINKS])
def test_netfilter_where_it_cannot_be_had_is_refused_in_one_line(host: Host) -> None:
    with pytest.raises(Refusal, match=r"^hook = 'netfilter': kernel .*; expected auto or tc on this kernel$"):
        hook.choose("netfilter", host)


@pytest.mark.kernel
def test_this_machine_takes_netfilter() -> None:
    assert hook.choose("auto", hook.look()) == Choice("netfilter")
