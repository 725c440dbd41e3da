# SPDX-License-Identifier: Apache-2.0
"""The spool on a real file system: order, bounds, full and read-only disks, and files that are not what they were."""

import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from collector.outbox.spool import Entry, Spool, SpoolError, directory_for
from collector.outbox.spool_file import DamagedError, EncodedWindow, read, read_head
from collector.window.encode import ledger_record, raw_chunks
from common.errors import Refusal
from schemas.raw import as_repeat
from tests.collector.window.test_encode import FROZEN, META, THREE
from tests.support.sinks.disk import small_disk

ROOT = Path(__file__).resolve().parents[3]
LIMIT = 1 << 20
# What it needs is imported first: nobody may not read a clone that is root's alone.
OPENED_BY_NOBODY = """
import os, sys
from pathlib import Path
from collector.outbox.spool import Spool
os.setgroups([]); os.setgid(65534); os.setuid(65534)
Spool(Path(sys.argv[1]), 1).open()
"""


def window(sequence: int, *, attempted: bool = False) -> EncodedWindow:
    record = replace(FROZEN, sequence=sequence, rows_per_chunk=2)  # two chunks
    return EncodedWindow(
        ledger_record(META, record, THREE, partition=0),
        attempted,
        lambda repeat: raw_chunks(META, record, THREE, maybe_repeat=repeat),
    )


def opened(directory: Path, limit: int = LIMIT) -> Spool:
    spool = Spool(directory, limit)
    spool.open()
    return spool


def put(spool: Spool, sequence: int, *, attempted: bool = False) -> Entry:
    entry = spool.add(window(sequence, attempted=attempted))
    spool.append(entry)
    return entry


def take(spool: Spool) -> Entry:
    entry = spool.oldest()
    assert entry is not None
    return entry


@pytest.mark.parametrize("repeat", [False, True])
def test_what_comes_out_is_what_would_have_been_published(tmp_path: Path, repeat: bool) -> None:
    spool = opened(tmp_path / "spool")
    put(spool, 8121, attempted=repeat)
    found = read(take(spool).path)
    assert found.ledger == window(8121).ledger
    assert found.maybe_repeat is repeat
    for asked in (False, True, False):
        assert list(found.chunks(asked)) == list(window(8121).chunks(asked))


def test_a_device_called_addresses_does_not_mislead() -> None:
    record = replace(FROZEN, uplinks=tuple(replace(FROZEN.uplinks[0], name=name) for name in ("a", "addresses")))
    plain, repeat = (next(raw_chunks(META, record, THREE, maybe_repeat=each)) for each in (False, True))
    assert b',"addresses":{' in plain
    assert as_repeat(plain) == repeat


def test_order_and_numbers_go_on_in_the_next_life(tmp_path: Path) -> None:
    first = opened(tmp_path)
    for sequence in (1, 2, 3):
        put(first, sequence)
    first.remove(take(first))
    second = opened(tmp_path)
    assert (second.windows(), second.used(), second.newest_id()) == (2, first.used(), window(3).ledger.id)
    put(second, 1)  # a node that came up again begins with sequence 1
    found = []
    while (entry := second.oldest()) is not None:
        found.append((read(entry.path).ledger.id, entry.found))
        second.remove(entry)
    assert found == [(window(2).ledger.id, True), (window(3).ledger.id, True), (window(1).ledger.id, False)]
    assert (second.used(), list(tmp_path.iterdir()), second.newest_id()) == (0, [], None)


def test_its_bound_holds_and_leaves_nothing_half(tmp_path: Path) -> None:
    size = put(opened(tmp_path / "measure"), 1).size
    spool = opened(tmp_path / "spool", limit=2 * size + size // 2)
    used = put(spool, 1).size + put(spool, 2).size
    for _ in range(2):
        with pytest.raises(SpoolError, match=r"spool_dir = '.*/spool': full, \d+ bytes \(--spool-size\)"):
            put(spool, 3)
    assert spool.used() == used == sum(path.stat().st_size for path in spool.directory.iterdir())
    spool.remove(take(spool))
    put(spool, 3)
    assert spool.windows() == 2


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "64k") as path:
        yield path


def test_a_full_disk_takes_nothing_and_then_something(disk: Path) -> None:
    spool = opened(disk / "spool")
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    with pytest.raises(SpoolError, match="No space left on device"):
        put(spool, 1)
    assert (spool.windows(), spool.used(), list(spool.directory.iterdir())) == (0, 0, [])
    filler.unlink()
    put(spool, 1)
    assert read(take(spool).path).ledger == window(1).ledger


def test_a_disk_that_becomes_read_only(disk: Path) -> None:
    spool = opened(disk / "spool")
    put(spool, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(SpoolError, match="Read-only file system"):
        put(spool, 2)
    entry = take(spool)
    assert read(entry.path).ledger == window(1).ledger
    spool.remove(entry)
    assert spool.oldest() is None, "it is published once in this life"
    again = opened(disk / "spool")
    assert take(again).found, "and a repeat in the next"


def test_a_directory_that_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spool = Spool(tmp_path / "file" / "spool", LIMIT)
    with pytest.raises(SpoolError, match="Not a directory"):
        spool.open()
    with pytest.raises(SpoolError, match="could not be had at the start"):
        put(spool, 1)


def test_a_directory_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """What lies in it would come after newer windows, and be taken for repeats."""
    for path in (tmp_path, *tmp_path.parents):
        if path.name.startswith(("pytest-", "popen-")) or path == tmp_path:
            path.chmod(0o755)
    (tmp_path / "spool").mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, "-c", OPENED_BY_NOBODY, str(tmp_path / "spool")], capture_output=True, text=True, cwd=ROOT
    )
    assert "Refusal: spool_dir = " in done.stderr
    assert "Permission denied; unpublished windows may lie there" in done.stderr


def test_what_a_crash_and_others_left_there(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    put(spool, 1)
    (tmp_path / "000000000002.window.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / "x.window").write_text("not ours either")
    again = opened(tmp_path)
    assert again.windows() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000000001.window", "notes.txt", "x.window"]
    put(again, 2)
    assert (tmp_path / "000000000003.window").exists(), "no number comes twice"


def test_cuts_and_flipped_bits_are_found(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    path = put(spool, 1).path
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedError):
            read(path)
    unharmed = list(window(1).chunks(False))
    for place in range(0, len(whole), 2):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            assert list(read(path).chunks(False)) == unharmed, "only bits of gzip's own header do not matter"
        except DamagedError:
            continue


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b'{"ledger":{"cluster":"\xff"}}\n', id="no UTF-8"),
        pytest.param(b'{"x":' + b"[" * 100_000, id="brackets without end"),
    ],
)
def test_a_head_that_is_no_json_is_damage(tmp_path: Path, head: bytes) -> None:
    path = put(opened(tmp_path), 1).path
    path.write_bytes(gzip.compress(head))
    with pytest.raises(DamagedError):
        read(path)
    assert read_head(path) is None


@pytest.mark.parametrize(
    "changed",
    [{"hop": "enricher"}, {"node": "node-b1"}, {"node": None}, {"id": "x"}],
    ids=["of another hop", "another node's name", "of no node", "no id"],
)
def test_a_head_that_contradicts_itself_is_damage(tmp_path: Path, changed: dict[str, str]) -> None:
    path = put(opened(tmp_path), 1).path
    head, *chunks = gzip.decompress(path.read_bytes()).splitlines()
    lines = [msgspec.json.encode({"ledger": msgspec.json.decode(head)["ledger"] | changed, "maybe_repeat": False})]
    path.write_bytes(gzip.compress(b"\n".join([*lines, *chunks])))
    with pytest.raises(DamagedError, match="its head"):
        read(path)
    assert read_head(path) is None


def test_what_is_no_file_is_damage_and_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "000000000001.window")
    (tmp_path / "000000000002.window").symlink_to("/dev/zero")
    (tmp_path / "000000000003.window").mkdir()
    spool = opened(tmp_path)
    assert spool.newest_id() is None
    for _ in range(3):
        entry = take(spool)
        with pytest.raises((DamagedError, OSError)):
            read(entry.path)
        spool.set_aside(entry)
    assert spool.oldest() is None


def test_a_file_that_another_user_put_there_is_damage(tmp_path: Path) -> None:
    """Where they can replace a directory above: what they put in its place is not published."""
    spool = opened(tmp_path)
    entry = put(spool, 1)
    os.chown(entry.path, 1000, -1)
    assert spool.newest_id() is None
    with pytest.raises(DamagedError, match="it belongs to uid 1000, not to uid 0 or root"):
        read(entry.path)


def test_the_newest_is_only_known_if_its_file_is_whole(tmp_path: Path) -> None:
    """The kernel may still hold that window, and clears it where a file has it."""
    path = put(opened(tmp_path), 1).path
    assert opened(tmp_path).newest_id() == window(1).ledger.id
    whole = path.read_bytes()
    for cut in (whole[:-1], whole[: len(whole) * 3 // 4]):
        path.write_bytes(cut)
        assert read_head(path) is not None
        assert opened(tmp_path).newest_id() is None


@pytest.mark.parametrize(
    ("mode", "uid", "says"), [(0o777, 0, "mode 0777"), (0o770, 0, "0770"), (0o700, 65534, "65534")]
)
def test_a_directory_that_others_can_write_is_refused(tmp_path: Path, mode: int, uid: int, says: str) -> None:
    directory = tmp_path / "spool"
    directory.mkdir()
    directory.chmod(mode)
    os.chown(directory, uid, -1)
    with pytest.raises(Refusal, match=rf"spool_dir = '{directory}': .*{says}.*chmod 700"):
        opened(directory)
    os.chown(directory, 0, -1)
    directory.chmod(0o755)
    opened(directory)


def test_a_damaged_file_is_kept_and_counts(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    first, second = put(spool, 1), put(spool, 2)
    first.path.write_bytes(first.path.read_bytes()[:-1])
    with pytest.raises(DamagedError):
        read(first.path)
    head = read_head(first.path)
    assert head is not None
    assert head.ledger == window(1).ledger, "what it held is still known"
    spool.set_aside(first)
    assert spool.oldest() == second
    assert (tmp_path / "000000000001.damaged").exists()
    again = opened(tmp_path)
    assert (again.windows(), again.used()) == (1, sum(path.stat().st_size for path in tmp_path.iterdir()))


def test_each_pin_directory_has_a_spool_of_its_own() -> None:
    spools = {str(directory_for(Path("/s"), Path(pins))) for pins in ("/sys/fs/bpf/zonemeter", "/bpf/node")}
    assert spools == {"/s/sys-fs-bpf-zonemeter", "/s/bpf-node"}


def test_a_directory_that_somebody_removed(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool")
    gone = put(spool, 1)
    shutil.rmtree(spool.directory)
    left = put(spool, 2)
    with pytest.raises(FileNotFoundError):
        read(gone.path)
    spool.set_aside(gone)
    assert spool.oldest() == left
    assert read(left.path).ledger == window(2).ledger
