# SPDX-License-Identifier: Apache-2.0
"""Whoever comes second is told who was first, whatever it calls the directory; and nothing stays of a dead holder."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.host import locks
from common.errors import Refusal
from tests.support.collector import metered

ROOT = Path(__file__).resolve().parents[3]
HOLD = """
import sys, time
from pathlib import Path
from collector.host import locks
with locks.pin_directory(Path(sys.argv[1])), locks.node_name(sys.argv[2], "node"):
    print("held", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def pin_dir() -> Iterator[Path]:
    made = metered.pin_dir("locks")
    yield made
    if made.is_dir():
        made.rmdir()


@pytest.fixture
def holder(pin_dir: Path) -> Iterator[int]:
    command = [sys.executable, "-c", HOLD, str(pin_dir), metered.pin_dir("cluster").name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.kill()


def test_the_directory_under_any_path(pin_dir: Path, holder: int, tmp_path: Path) -> None:
    elsewhere = tmp_path / "bpf"
    elsewhere.symlink_to(pin_dir.parent)
    for path in (pin_dir, elsewhere / pin_dir.name):
        with pytest.raises(Refusal, match=f"the collector with pid {holder} has it"), locks.pin_directory(path):
            pytest.fail("two have one directory")


def test_the_name_with_any_directory(holder: int) -> None:
    cluster = metered.pin_dir("cluster").name
    said = f"the collector with pid {holder} counts for this node of cluster '{cluster}'"
    with pytest.raises(Refusal, match=said), locks.node_name(cluster, "node"):
        pytest.fail("two have one name")
    with locks.node_name(cluster, "another-node"), locks.node_name(f"{cluster}-2", "node"):
        pass


def test_a_holder_that_cannot_be_seen_from_here(holder: int) -> None:
    """In a pid namespace of its own, as a container has, the holder has no number."""
    code = "import sys; from collector.host import locks; locks.node_name(sys.argv[1], 'node').__enter__()"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    done = subprocess.run([*command, metered.pin_dir("cluster").name], capture_output=True, text=True, cwd=ROOT)
    assert "Refusal: node = 'node': a collector in another container counts" in done.stderr


def test_nothing_stays_of_one_that_died(pin_dir: Path) -> None:
    cluster = metered.pin_dir("cluster").name
    code = HOLD.replace("time.sleep(3600)", "import os; os.kill(os.getpid(), 9)")
    done = subprocess.run([sys.executable, "-c", code, str(pin_dir), cluster], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (-9, "held\n")
    for _ in range(2):
        with locks.pin_directory(pin_dir), locks.node_name(cluster, "node"):
            assert list(pin_dir.iterdir()) == []


def test_detaching_makes_no_directory(pin_dir: Path) -> None:
    with locks.pin_directory(pin_dir, make=False):
        assert not pin_dir.exists()
