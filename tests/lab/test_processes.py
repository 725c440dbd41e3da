# SPDX-License-Identifier: Apache-2.0
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.network.namespaces import run
from lab.processes import Process, Processes


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def test_ctrl_c_is_not_for_the_commands_that_make_a_lab() -> None:
    fields = run(["cat", "/proc/self/stat"]).split()
    pid, group = fields[0], fields[4]
    assert group == pid != str(os.getpgrp())


def started(processes: Processes, script: str, ready: Path) -> Process:
    process = processes.start("role", ["sh", "-c", script])
    until(ready.exists)
    return process


def test_a_process_is_found_again_by_another_reader_and_stopped(tmp_path: Path) -> None:
    process = started(Processes(tmp_path), f"touch {tmp_path}/up; exec sleep 60", tmp_path / "up")
    (found,) = Processes(tmp_path).recorded()
    assert (found, found.alive) == (process, True)
    assert os.getsid(process.pid) == process.pid
    assert Processes(tmp_path).stop([found], 10) == []
    assert not process.alive
    assert Processes(tmp_path).recorded() == []


def test_who_does_not_listen_to_sigterm_is_killed_and_named(tmp_path: Path) -> None:
    script = f"trap '' TERM; touch {tmp_path}/up; while :; do sleep 1; done"
    processes = Processes(tmp_path)
    process = started(processes, script, tmp_path / "up")
    assert processes.stop([process], 0.2) == ["role"]
    assert not process.alive


def test_what_a_dead_process_left_running_is_killed_with_it(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! >{tmp_path}/child.tmp; mv {tmp_path}/child.tmp {tmp_path}/child; wait"
    processes = Processes(tmp_path)
    process = started(processes, script, tmp_path / "child")
    os.kill(process.pid, signal.SIGKILL)
    child = Path(f"/proc/{int((tmp_path / 'child').read_text())}/stat")
    processes.kill(process)
    until(lambda: not child.exists() or ") Z" in child.read_text())


def test_a_pid_that_is_somebody_elses_now_is_left_alone(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    process = started(processes, f"touch {tmp_path}/up; exec sleep 60", tmp_path / "up")
    earlier = Process("role", process.pid, process.start_time - 1)
    assert not earlier.alive
    assert processes.stop([earlier], 1) == []
    assert process.alive
    processes.kill(process)


def test_a_record_cut_short_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "role.stat").write_text("123 (sle")
    assert Processes(tmp_path).recorded() == []


@pytest.mark.parametrize(
    ("script", "seconds", "said"),
    [
        pytest.param("echo one; echo two >&2; exit 3", 10, "role: failed: one | two", id="fails"),
        pytest.param("exec sleep 60", 0.1, "role: not done after 0 s: empty log", id="takes too long"),
    ],
)
def test_a_call_that_does_not_succeed_says_why(tmp_path: Path, script: str, seconds: float, said: str) -> None:
    with pytest.raises(LabError) as raised:
        Processes(tmp_path).call("role", ["sh", "-c", script], seconds)
    assert str(raised.value) == said
    assert Processes(tmp_path).recorded() == []


def test_a_call_that_succeeds_leaves_its_log_only(tmp_path: Path) -> None:
    Processes(tmp_path).call("role", ["true"], 10)
    assert [path.name for path in tmp_path.iterdir()] == ["role.log"]
