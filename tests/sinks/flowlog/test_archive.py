# SPDX-License-Identifier: Apache-2.0
"""Manifests: what they list is there, what they do not list is gone, two writers of a partition collide."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from obstore.store import LocalStore as DirectoryStore

from common.errors import Refusal
from schemas.amount import Amount
from schemas.ids import Origin
from schemas.ledger import Hop, LedgerRecord
from sinks.flowlog.archive.archive import Archive, ArchiveCut
from sinks.flowlog.archive.manifest import Intent, Manifest, Marked, encode
from sinks.flowlog.stores.objects import ObjectStore
from sinks.flowlog.stores.opening import open_store
from sinks.flowlog.stores.store import TEMPORARY, LocalStore, Store
from sinks.intake import FlowMark
from sinks.sink import Overtaken
from tests.support.history.written import Dying
from tests.support.sinks.disk import small_disk

TOPIC = "zonemeter.flows.enriched.v1"
HOUR_MS = 1_795_384_800_000
HOUR = "flows/date=2026-11-22/hour=22"


@dataclass
class Rows:
    content: bytes
    rows: int = 3

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def encode(self) -> list[bytes]:
        return [self.content]


def cut(sequence: int, *contents: bytes, partition: int = 3, first: int = 0) -> ArchiveCut:
    marks = [Marked(*Origin("lab", "node-a1", "5be6c2f0a91d"), FlowMark(1, sequence, 0, 2))]
    manifest = Manifest(
        topic=TOPIC,
        partition=partition,
        sequence=sequence,
        writer="",
        first_offset=first,
        next_offset=first + 3,
        marks=marks,
    )
    return ArchiveCut(
        manifest, {HOUR_MS + number * 3_600_000: Rows(content) for number, content in enumerate(contents)}
    )


def with_entry(hop: Hop = "flowlog", partition: int = 3, schema_version: int = 1) -> bytes:
    """Return manifest 2 with that entry in its ledger."""
    entry = LedgerRecord(
        schema_version=schema_version,
        hop=hop,
        id="x",
        partition=partition,
        start_ms=0,
        end_ms=1,
        taken=Amount(0, 0, 0),
        given=Amount(0, 0, 0),
    )
    return encode(msgspec.structs.replace(cut(2).manifest, ledger=[entry]))


@pytest.fixture(params=["local", "object-store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "out"))
    return ObjectStore(DirectoryStore(tmp_path / "out", mkdir=True))


def archive(store: Store) -> Archive:
    return Archive(store, TOPIC, ".jsonl")


def data_files(root: Path) -> set[str]:
    return {str(path.relative_to(root / "out")) for path in root.glob("out/**/date=*/**/*") if path.is_file()}


def test_the_newest_manifest_holds_where_to_go_on(store: Store, tmp_path: Path) -> None:
    assert archive(store).recover(3) is None
    writer = archive(store)
    writer.write(cut(1, b"one"))
    second = writer.write(cut(2, b"two", b"three", first=3))
    assert archive(store).recover(3) == second
    assert archive(store).recover(4) is None
    assert [file.rows for file in second.files] == [3, 3]
    assert [store.read(file.path) for file in second.files] == [b"two", b"three"]
    assert second.files[0].path.startswith("flows/date=2026-11-22/hour=22/flows-p3-000000000002-")
    assert second.known_marks() == {Origin("lab", "node-a1", "5be6c2f0a91d"): FlowMark(1, 2, 0, 2)}
    assert len(data_files(tmp_path)) == 3
    assert sorted(store.names("_manifests/p=3")) == ["000000000001.json", "000000000002.json"]


def test_only_one_of_two_writers_gets_the_next_number(store: Store, tmp_path: Path) -> None:
    first, second = archive(store), archive(store)
    kept = first.write(cut(1, b"first"))
    with pytest.raises(Overtaken):
        second.write(cut(1, b"second"))
    assert archive(store).recover(3) == kept
    assert data_files(tmp_path) == {kept.files[0].path}


@pytest.mark.parametrize("folder", ["flows/", pytest.param("", id="of a version that had no folder for them")])
def test_what_was_written_but_not_listed_is_deleted(store: Store, tmp_path: Path, folder: str) -> None:
    kept = archive(store).write(cut(1, b"kept"))
    orphan = f"{folder}date=2026-11-22/hour=22/flows-p3-000000000002-abcdef.jsonl"
    store.put(orphan, [b"orphan"])
    missing = f"{folder}date=2026-11-22/hour=23/flows-p3-000000000002-abcdef.jsonl"
    store.put("_manifests/p=3/000000000002-abcdef.intent", [encode(Intent(2, [orphan, missing]))])
    newest = archive(store).recover(3)
    assert data_files(tmp_path) == {kept.files[0].path}
    assert newest is not None
    assert (newest.sequence, newest.next_offset, newest.marks) == (2, kept.next_offset, kept.marks)
    # Whoever wrote the orphan and was only slow finds the number taken.
    with pytest.raises(Overtaken):
        archive(store).write(cut(2, b"late"))
    assert data_files(tmp_path) == {kept.files[0].path}


def test_an_intent_left_behind_by_a_manifest_deletes_nothing_of_it(store: Store, tmp_path: Path) -> None:
    kept = archive(store).write(cut(1, b"kept"))
    store.put(f"_manifests/p=3/000000000001-{kept.writer}.intent", [encode(Intent(1, [kept.files[0].path]))])
    assert archive(store).recover(3) == kept
    assert data_files(tmp_path) == {kept.files[0].path}
    assert store.names("_manifests/p=3") == ["000000000001.json"]


def test_a_crash_before_the_first_manifest(store: Store, tmp_path: Path) -> None:
    orphan = "flows/date=2026-11-22/hour=22/flows-p3-000000000001-abcdef.jsonl"
    store.put(orphan, [b"orphan"])
    store.put("_manifests/p=3/000000000001-abcdef.intent", [encode(Intent(1, [orphan]))])
    newest = archive(store).recover(3)
    assert newest is not None
    assert (newest.sequence, newest.next_offset) == (1, None)
    assert data_files(tmp_path) == set()


class Failing(LocalStore):
    """Fails after it has done what it should: what a lost answer looks like."""

    def create(self, path: str, parts: object) -> bool:
        super().create(path, parts)  # type: ignore[arg-type]
        raise OSError("no answer")


def test_a_manifest_that_was_written_after_all_is_recognised_as_ours(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    writer = archive(Failing(tmp_path / "out"))
    with pytest.raises(OSError, match="no answer"):
        writer.write(cut(1, b"one"))
    with pytest.raises(OSError, match="no answer"):
        writer.write(cut(1, b"one"))
    writer._store = LocalStore(tmp_path / "out")
    written = writer.write(cut(1, b"one"))
    assert data_files(tmp_path) == {written.files[0].path}
    assert archive(LocalStore(tmp_path / "out")).recover(3) == written


@pytest.mark.parametrize("late", [False, True], ids=["refused", "answer-lost"])
@pytest.mark.parametrize("first", range(1, 6))
@pytest.mark.parametrize("then", range(1, 6))
def test_whatever_fails_twice_what_a_manifest_lists_is_there_and_nothing_else(
    store: Store, tmp_path: Path, first: int, then: int, late: bool
) -> None:
    writer = archive(store)
    for failing in (Dying(store, first, OSError, late=late), Dying(store, then, OSError)):
        writer._store = failing
        with contextlib.suppress(OSError):
            writer.write(cut(1, b"one", b"two"))
    found = archive(store).recover(3)
    assert data_files(tmp_path) == ({file.path for file in found.files} if found else set())
    assert archive(store).recover(3) == found


def test_a_full_disk_leaves_nothing_that_counts_and_the_same_cut_goes_in_later(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "300k") as disk:
        store = open_store(str(disk / "out"))
        writer = archive(store)
        writer.write(cut(1, b"kept"))
        filler = disk / "filler"
        filler.write_bytes(b"x" * 200_000)
        large = cut(2, b"y" * 30_000, b"z" * 100_000)
        with pytest.raises(OSError, match=rf"No space left on device: '{disk}/out/flows/.*\.jsonl\.tmp'"):
            writer.write(large)
        assert [path.name for path in disk.glob("out/_manifests/p=3/*.json")] == ["000000000001.json"]
        filler.unlink()
        assert [file.size_bytes for file in writer.write(large).files] == [30_000, 100_000]


NEWER = "json: unsupported_version: schema_version 2, this reader knows 1; run the version of zonemeter that wrote it"


def test_names_that_are_none_of_ours_are_left_alone(store: Store) -> None:
    kept = archive(store).write(cut(1, b"kept"))
    for name in ("notes.txt", "x.json", "9.intent", "000000000009-zzzzzz.intent"):
        store.put(f"_manifests/p=3/{name}", [b"not ours"])
    assert archive(store).recover(3) == kept


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"{", "000000000002.json is damaged", id="half"),
        pytest.param(b"", "000000000002.json is damaged", id="empty"),
        pytest.param(b'{"topic":"\xff"}', "000000000002.json is damaged", id="no UTF-8"),
        pytest.param(b'{"x":' + b"[" * 100_000, "000000000002.json is damaged", id="brackets without end"),
        pytest.param(encode(cut(2, partition=4).manifest), "it is manifest 2 of partition 4", id="another partition's"),
        pytest.param(encode(cut(1).manifest), "it is manifest 1 of partition 3", id="an earlier one"),
        pytest.param(encode(cut(2).manifest).replace(b'"row":2', b'"row":-2'), "damaged: Expected", id="negative row"),
        pytest.param(with_entry(hop="metrics"), "has an entry of metrics, partition 3", id="another hop's entry"),
        pytest.param(with_entry(partition=5), "has an entry of flowlog, partition 5", id="another partition's entry"),
        pytest.param(encode(msgspec.structs.replace(cut(2).manifest, schema_version=2)), NEWER, id="next version"),
        pytest.param(b'{"schema_version":2,"topic":3}', NEWER, id="next version, changed"),
        pytest.param(with_entry(schema_version=2), NEWER, id="an entry of the next version"),
        pytest.param(encode(cut(2).manifest).replace(TOPIC.encode(), b"other"), "is of topic other", id="other-topic"),
        pytest.param(
            encode(msgspec.structs.replace(cut(2).manifest, attribution_version=7)),
            "is of attribution_version 7, not 0; use another directory",
            id="another attribution's",
        ),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_refused_in_one_line(store: Store, content: bytes, says: str) -> None:
    archive(store).write(cut(1, b"kept"))
    store.put("_manifests/p=3/000000000002.json", [content])
    with pytest.raises(Refusal, match=says) as refusal:
        archive(store).recover(3)
    assert "\n" not in str(refusal.value)


def test_a_directory_of_another_topic_is_refused_though_no_partition_is_in_both(store: Store) -> None:
    archive(store).check()
    archive(store).write(cut(1, b"kept"))
    archive(store).check()
    store.put("_manifests/p=0/notes.txt", [b"not ours"])
    store.put(
        "_manifests/p=1/000000000001.json", [encode(cut(1, partition=1).manifest).replace(TOPIC.encode(), b"us.")]
    )
    with pytest.raises(Refusal, match=r"_manifests/p=1/000000000001.json is of topic us\., .*use another directory"):
        archive(store).check()
    assert archive(store).recover(3) is not None


@pytest.mark.parametrize(
    ("sequence", "paths", "says"),
    [
        pytest.param(1, ["../../kept"], "no file '../../kept'", id="outside of the output"),
        pytest.param(1, ["/etc/passwd"], "no file '/etc/passwd'", id="absolute"),
        pytest.param(1, ["flows/date=2026-11-22/hour=22/../../../../kept"], "has no file", id="dots"),
        pytest.param(1, [f"{HOUR}/flows-p4-000000000001-5c9e01.jsonl"], "has no file", id="another partition's"),
        pytest.param(1, [f"{HOUR}/flows-p3-000000000002-5c9e01.jsonl"], "has no file", id="another manifest's"),
        pytest.param(1, [f"{HOUR}/flows-p3-000000000001-abcdef.jsonl"], "has no file", id="another writer's"),
        pytest.param(2, [], "it is the intent of manifest 2", id="another number"),
    ],
)
def test_an_intent_names_its_writers_files_and_no_others(
    store: Store, tmp_path: Path, sequence: int, paths: list[str], says: str
) -> None:
    kept = archive(store).write(cut(1, b"kept"))
    (tmp_path / "kept").touch()
    store.put("_manifests/p=3/000000000001-5c9e01.intent", [encode(Intent(sequence, paths))])
    with pytest.raises(Refusal, match=says) as refusal:
        archive(store).recover(3)
    assert "000000000001-5c9e01.intent is damaged" in str(refusal.value)
    assert (tmp_path / "kept").exists()
    assert data_files(tmp_path) == {kept.files[0].path}


def test_an_intent_far_ahead_is_refused_and_no_numbers_are_claimed_up_to_it(store: Store) -> None:
    archive(store).write(cut(1, b"kept"))
    store.put("_manifests/p=3/999999999999-5c9e01.intent", [encode(Intent(999_999_999_999, []))])
    with pytest.raises(Refusal, match=r"999999999999-5c9e01\.intent is damaged: it is 999,999,999,998 manifests ahead"):
        archive(store).recover(3)
    assert len(store.names("_manifests/p=3")) == 2


def test_an_intent_that_cannot_be_read_is_refused_in_one_line(store: Store) -> None:
    archive(store).write(cut(1, b"kept"))
    store.put("_manifests/p=3/000000000001-5c9e01.intent", [b"{"])
    with pytest.raises(Refusal, match=r"000000000001-5c9e01\.intent is damaged"):
        archive(store).recover(3)


@pytest.mark.parametrize(
    ("prepare", "output", "says"),
    [
        pytest.param(lambda path: path.write_text("x"), "{}", "expected a directory to write to", id="a-file"),
        pytest.param(lambda path: None, "/proc/none", "expected a directory to write to", id="not-writable"),
        pytest.param(lambda path: None, "gopher://x/y", "expected a directory or a URI", id="no-such-scheme"),
    ],
)
def test_an_output_that_cannot_be_used_is_refused(
    prepare: Callable[[Path], object], output: str, says: str, tmp_path: Path
) -> None:
    prepare(tmp_path / "out")
    with pytest.raises(Refusal, match=says):
        open_store(output.format(tmp_path / "out"))


def test_a_file_uri_is_a_directory(tmp_path: Path) -> None:
    assert isinstance(open_store(f"file://{tmp_path}/out"), LocalStore)
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize("kind", ["another user's", "a link"])
@pytest.mark.parametrize("name", ["000000000002.json", "000000000001-abcdef.intent"])
def test_a_file_that_another_user_put_there_is_not_read(tmp_path: Path, name: str, kind: str) -> None:
    archive, manifests = Archive(open_store(str(tmp_path / "out")), TOPIC, ".jsonl"), tmp_path / "out/_manifests/p=3"
    archive.write(cut(1, b"a"))
    theirs = manifests / name
    if kind == "a link":
        theirs.symlink_to(manifests / "000000000001.json")
        says = "is a symbolic link"
    else:
        theirs.write_bytes(encode(cut(2).manifest) if name.endswith("json") else encode(Intent(1, [])))
        os.chown(theirs, 1000, -1)
        says = "belongs to uid 1000, not to uid 0 or root"
    with pytest.raises(Refusal, match=rf"^output: {theirs} {says}: it is not read; [^\n]*$"):
        Archive(open_store(str(tmp_path / "out")), TOPIC, ".jsonl").recover(3)
    theirs.unlink()
    newest = Archive(open_store(str(tmp_path / "out")), TOPIC, ".jsonl").recover(3)
    assert newest is not None
    assert newest.sequence == 1


def test_a_link_in_the_place_of_a_file_to_write_is_not_followed(tmp_path: Path) -> None:
    store, precious = open_store(str(tmp_path / "out")), tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / f"out/a{TEMPORARY}").symlink_to(precious)
    store.put("a", [b"rows"])
    assert (precious.read_bytes(), (tmp_path / "out/a").read_bytes()) == (b"precious", b"rows")
    assert not (tmp_path / "out/a").is_symlink()


@pytest.mark.parametrize("name", ["000000000002.json", "000000000001-abcdef.intent"])
def test_a_manifest_larger_than_any_is_refused_unread(store: Store, tmp_path: Path, name: str) -> None:
    archive(store).write(cut(1, b"a"))
    (manifests,) = tmp_path.rglob("p=3")
    (manifests / name).touch()
    os.truncate(manifests / name, 5 << 30)
    with pytest.raises(
        Refusal, match=rf"^output: _manifests/p=3/{name} is damaged: it is larger than 134,217,728 bytes;"
    ):
        archive(store).recover(3)
