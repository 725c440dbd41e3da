# SPDX-License-Identifier: Apache-2.0
"""Users of the node who are not root can neither end the counting nor keep it from beginning."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from collector.host import detach, locks
from collector.kernel import pins
from common.errors import Refusal
from doctor import host
from tests.support.collector import metered

NOBODY = 65534
TAKE = """
import hashlib, os, socket, sys
os.setuid(int(sys.argv[1]))
name = b"\\0zonemeter/collector/" + hashlib.sha256((sys.argv[2] + "/node").encode()).hexdigest().encode()
taken = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[3]))]
for number, each in enumerate(taken):
    each.bind(name + (f"/{number}".encode() if number else b""))
    if sys.argv[4] == "listen":
        each.listen(5)
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cluster() -> str:
    return metered.pin_dir("ownership").name


@contextmanager
def taken(cluster: str, names: int, listen: str = "listen") -> Iterator[None]:
    """Another user holds so many of the lock's names."""
    command = [sys.executable, "-c", TAKE, str(NOBODY), cluster, str(names), listen]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        yield


def refused(cluster: str) -> None:
    with (
        pytest.raises(Refusal, match=f"the collector with pid {os.getpid()} counts for this node"),
        locks.node_name(cluster, "node"),
    ):
        pytest.fail("two have one name")


@pytest.mark.parametrize("listen", ["listen", "bound-only"])
def test_a_name_that_another_user_took_is_passed_over(
    cluster: str, listen: str, caplog: pytest.LogCaptureFixture
) -> None:
    with taken(cluster, 3, listen), locks.node_name(cluster, "node"):
        said = [record.getMessage()[:9] for record in caplog.records]
        assert said == ([f"uid {NOBODY}"] * 3 if listen == "listen" else [])
        refused(cluster)


def test_who_passed_a_name_over_is_found_when_it_is_free_again(cluster: str) -> None:
    with ExitStack() as first:
        with taken(cluster, 1):
            first.enter_context(locks.node_name(cluster, "node"))
        refused(cluster)


def test_with_all_names_taken_it_starts_and_says_so(cluster: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with taken(cluster, 8), locks.node_name(cluster, "node"):
        assert caplog.records[-1].getMessage().startswith("no lock: whether another collector counts")


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A bpffs with the mode that /sys/fs/bpf has."""
    subprocess.run(["mount", "-t", "bpf", "-o", "mode=1777", "bpf", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("made", "pins", "said"),
    [
        pytest.param("install -d -o 65534 a", "a", "it belongs to uid 65534, not to uid 0", id="anothers"),
        pytest.param("mkdir -m 770 a", "a", r"others can write there \(mode 0770\)", id="a-groups"),
        pytest.param("mkdir b; ln -s b a", "a", "Not a directory", id="a-link"),
        pytest.param("install -d -o 65534 d; mkdir d/a", "d/a", "d belongs to uid 65534, who can replace", id="above"),
        pytest.param("mkdir a; chmod 777 .", "a", "others can replace it, .* is mode 0777; chmod 700", id="not-sticky"),
    ],
)
def test_a_directory_that_others_can_write_is_refused(bpffs: Path, made: str, pins: str, said: str) -> None:
    subprocess.run(["sh", "-c", made], check=True, cwd=bpffs)
    with pytest.raises(Refusal, match=said), locks.pin_directory(bpffs / pins):
        pytest.fail("it is not ours")
    if not (bpffs / pins).is_symlink():
        with pytest.raises(Refusal, match=said):
            host.check_bpffs(bpffs / pins)


def test_a_directory_of_ours_is_closed_to_others(bpffs: Path) -> None:
    """Who may open it may hold its lock, and keep a collector from starting."""
    (bpffs / "open").mkdir(mode=0o755)
    old = os.umask(0)
    try:
        for pin_dir in (bpffs / "open", bpffs / "new" / "deep"):
            with locks.pin_directory(pin_dir):
                assert pin_dir.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(old)
    assert (bpffs / "new").stat().st_mode & 0o777 == 0o700


def detached(pin_dir: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    try:
        status = detach.main(["--pin-dir", str(pin_dir)])
    except SystemExit as ended:
        status = int(str(ended))
    said = capsys.readouterr()
    assert (said.out + said.err).count("\n") == 1
    return status, said.out + said.err


def everything(root: Path) -> list[Path]:
    return sorted(root.rglob("*"))


@pytest.mark.parametrize("pins", ["dispatch", "gen_7/flows0", "gen_7/notes.txt", "link_ipv4_local_in"])
def test_detach_removes_nothing_that_is_not_on_a_bpffs(
    tmp_path: Path, pins: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / pins).parent.mkdir(exist_ok=True)
    (tmp_path / pins).write_text("a document")
    before = everything(tmp_path)
    status, said = detached(tmp_path, capsys)
    assert (status, "expected a directory on a bpffs" in said, everything(tmp_path)) == (2, True, before)
    status, said = detached(tmp_path / pins, capsys)
    assert (status, "not a directory" in said, everything(tmp_path)) == (2, True, before)


@pytest.mark.parametrize("made", ["mkdir globals", "mkdir gen_x", "mkdir gen_1 xdp_2"])
def test_detach_removes_nothing_of_a_directory_that_is_another_programs(
    bpffs: Path, made: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = bpffs / "theirs"
    root.mkdir(mode=0o700)
    subprocess.run(["sh", "-c", made], check=True, cwd=root)
    pins.pin_barrier(root)
    before = everything(root)
    status, said = detached(root, capsys)
    assert (status, "in it is not zonemeter's" in said, everything(root)) == (2, True, before)


def test_detach_leaves_the_root_of_a_bpffs_alone(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = detached(Path("/sys/fs/bpf"), capsys)
    assert (status, "expected a directory on a bpffs, such as" in said) == (2, True)


def test_detach_removes_what_was_half_made(bpffs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = bpffs / "ours"
    (root / "gen_5").mkdir(parents=True, mode=0o700)
    root.chmod(0o700)
    pins.pin_barrier(root)
    status, said = detached(root, capsys)
    assert (status, said, root.exists()) == (0, f"{root}: removed 2 links, programs and maps\n", False)
