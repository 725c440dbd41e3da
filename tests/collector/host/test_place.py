# SPDX-License-Identifier: Apache-2.0
"""`zonemeter run collector` on its node: the only one, with no more rights than it needs, and gone when detached."""

import json
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.kafka.broker import Broker
from tests.support.collector import netlab
from tests.support.collector.collector_process import ROOT, B, Process, check, start, topics_apply
from tests.support.collector.netlab import send_udp, wait_until


def test_a_second_collector_is_refused(broker: Broker, collector: Process) -> None:
    collector.start()
    assert collector.says("counting")
    assert collector.running is not None
    second = subprocess.run([*collector.command, "--listen", "127.0.0.1:0"], capture_output=True, text=True, cwd=ROOT)
    assert second.returncode == 2
    refused = [json.loads(line) for line in second.stderr.splitlines()]
    assert f"the collector with pid {collector.running.pid} has it" in refused[-1]["message"]
    other = [*collector.command, "--listen", "127.0.0.1:0", "--pin-dir", f"{collector.pin_dir}-2"]
    third = subprocess.run(other, capture_output=True, text=True, cwd=ROOT)
    Path(f"{collector.pin_dir}-2").rmdir()
    assert third.returncode == 2
    assert f"the collector with pid {collector.running.pid} counts for this node" in third.stderr.splitlines()[-1]
    detached = [sys.executable, "-m", "cli", "detach", "--pin-dir", str(collector.pin_dir)]
    done = subprocess.run(detached, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_detach_leaves_nothing(broker: Broker, collector: Process) -> None:
    collector.start()
    assert collector.says("counting")
    collector.signal(signal.SIGKILL)
    assert collector.pin_dir.is_dir()
    command = [sys.executable, "-m", "cli", "detach", "--pin-dir", str(collector.pin_dir)]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, done.stderr) == (0, "")
        assert not collector.pin_dir.exists()


@pytest.mark.parametrize(("hook", "needed"), [("netfilter", {"bpf"}), ("tc", {"bpf", "net_admin"})])
def test_what_another_process_loaded_is_taken_over(
    broker: Broker, collector: Process, hook: str, needed: set[str]
) -> None:
    """As in Kubernetes, where an init container loads: what stays has fewer rights, and no compiler is asked for."""
    start(broker)
    topics_apply(collector)
    loading = [*collector.command, "--hook", hook, "--load", "only"]
    done = subprocess.run(loading, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"{collector.pin_dir}: the program for hook {hook}, generation \d+, is loaded\n", done.stdout)
    collector.give_only(needed)
    collector.command += ["--load", "never"]
    collector.start()
    assert wait_until(collector.ready)
    send_udp("pod11", "pod12", B, count=5, size=72)
    assert collector.signal(signal.SIGTERM) == 0
    # It counts on meanwhile, and the next one takes that over, too.
    send_udp("pod11", "pod12", B, count=2, size=72)
    done = subprocess.run(loading, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.endswith(", was there already\n")
    collector.start()
    assert wait_until(lambda: collector.says("counting", times=2) and collector.ready())
    assert collector.signal(signal.SIGTERM) == 0
    if hook == "netfilter":  # tc sees nothing that stays within the node
        assert len({chunk.generation for chunk in check(collector, 7)}) == 1
    # Other settings, and nothing for them: one line.
    collector.command += ["--service-ports", "50051"]
    collector.start()
    assert collector.running is not None
    assert collector.running.wait(120) == 2
    assert "nothing pinned at" in collector.lines()[-1]
    assert "zonemeter run collector --load=only" in collector.lines()[-1]


@pytest.mark.parametrize("missing", ["bpf", "net_admin", "perfmon"])
def test_a_missing_capability_is_named(broker: Broker, collector: Process, missing: str) -> None:
    few = {"bpf", "net_admin", "perfmon"} - {missing}
    collector.give_only(few)
    collector.start()
    assert collector.running is not None
    assert collector.running.wait(120) == 2
    assert f"missing CAP_{missing.upper()}: run as root, or add" in collector.lines()[-1]


def test_a_kernel_below_5_15_is_refused(broker: Broker, collector: Process) -> None:
    """Linux itself tells this process and its children that it is a 2.6 (personality(2), UNAME26)."""
    collector.command[2:2] = ["setarch", platform.machine(), "--uname-2.6"]
    collector.start()
    assert collector.running is not None
    assert collector.running.wait(120) == 2
    (line,) = collector.log.read_text().splitlines()
    assert re.fullmatch(r"kernel 2\.6\.\S+: expected Linux 5\.15 or later", json.loads(line)["message"])
    assert not collector.pin_dir.exists()


@pytest.mark.parametrize(("hook", "kept"), [("netfilter", 1 << 39), ("tc", 1 << 39 | 1 << 12)])
def test_what_it_no_longer_needs_it_gives_up(broker: Broker, collector: Process, hook: str, kept: int) -> None:
    """It loads with three capabilities; what stays, in every thread, is what draining takes. And it works so."""
    start(broker)
    topics_apply(collector)
    collector.give_only({"bpf", "net_admin", "perfmon"})
    collector.command += ["--hook", hook]
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 1)
    threads = list(Path(f"/proc/{collector.pid}/task").iterdir())
    assert len(threads) > 1
    for thread in threads:
        status = dict(line.split(":\t") for line in (thread / "status").read_text().splitlines())
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm")} == {kept}, thread
        assert (int(status["CapAmb"], 16), status["NoNewPrivs"]) == (0, "1")
    netlab.ip("node1", "link add vx8 type vxlan id 8 dstport 4789 dev eth0\nlink set vx8 up")
    try:
        assert wait_until(lambda: collector.metric("zonemeter_collector_uplinks") == 2)
        if hook == "tc":
            assert wait_until(lambda: len(list(collector.pin_dir.glob("link_tcx_*"))) == 4)
    finally:
        netlab.ip("node1", "link del vx8")
    windows = collector.metric("zonemeter_collector_windows_total")
    assert wait_until(lambda: collector.metric("zonemeter_collector_windows_total") >= windows + 2)
    assert collector.signal(signal.SIGTERM) == 0
