# SPDX-License-Identifier: Apache-2.0
"""`zonemeter audit --deep` on a copy of a real history: it finds what a test took away or put in, and names it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from history.audit import command as audit
from sinks.flowlog.archive.manifest import decode_manifest
from tests.history.conftest import Command
from tests.support.history.copies import Copy, Records
from tests.support.history.lived import MISSING, RUBBISH, Lived
from tests.support.history.written import compact_all

# Of which window which entry is taken out of the ledger.
SPOILT = {"collector": "/3/9", "enricher": "/3/11/"}
Audited = Callable[[int], dict[str, Any]]


@pytest.fixture
def copy(history: Lived, tmp_path: Path) -> Copy:
    return Copy(history, tmp_path)


@pytest.fixture
def audited(copy: Copy, command: Command) -> Audited:
    """Audit the copy; its exit status must be as expected."""

    def run(status: int) -> dict[str, Any]:
        found, out, err = command(audit.main, *copy.flags)
        assert err == ""
        answer: dict[str, Any] = orjson.loads(out)
        assert found == status, [answer[name] for name in ("deep", "foreign_source", "interleaved_boots", "shortfalls")]
        return answer

    return run


def faults(answer: dict[str, Any]) -> list[str]:
    return [found["what"] for found in answer["deep"]["findings"] if found["fault"]]


def chunk_of(record: Any) -> str:
    """Return the id of a raw chunk or of an enriched flow's chunk."""
    value = orjson.loads(record.value)
    if "id" in value:
        return str(value["id"]).rpartition("/")[0]
    return "/".join(str(value[name]) for name in ("cluster", "node", "boot_id", "generation", "sequence", "chunk"))


def without(records: Records, number: int) -> Records:
    return records[:number] + records[number + 1 :]


def test_an_untouched_copy_closes_and_its_repeats_and_rubbish_are_told(
    copy: Copy, audited: Audited, history: Lived
) -> None:
    copy.publish()
    answer = audited(0)
    assert answer["ratio"] == 1.0
    assert faults(answer) == []
    assert len(answer["repeats"]) == 4
    notes = [found["what"] for found in answer["deep"]["findings"]]
    assert sum("again, first at" in note for note in notes) == 4
    assert sum("cannot be read" in note for note in notes) == 1
    read = answer["deep"]["read"]
    assert read["enriched"] == read["archive"]
    assert read["enriched"]["rows"] == len(history.flows)
    assert read["ledger"] == read["raw"]
    assert [gap["why"].partition(" (")[0] for gap in answer["gaps"]] == [f"sequence {MISSING[1]} missing"]
    assert answer["gaps"][0]["node"] == MISSING[0]
    assert answer["unmeasured_seconds"] == 10


def test_a_record_taken_out_of_the_raw_topic_is_named(copy: Copy, audited: Audited) -> None:
    gone = []

    def edit(topic: str, records: Records) -> Records:
        if topic != "flows.raw.v1":
            return records
        last = max(n for n, record in enumerate(records) if record.partition != 0)
        gone.append(chunk_of(records[last]))
        return without(records, last)

    copy.publish(edit)
    (what,) = faults(audited(1))
    assert what.startswith(f"{gone[0]} is not in partition")
    assert "the enricher took" in what


def test_a_record_taken_out_of_the_enriched_topic_is_named(copy: Copy, audited: Audited) -> None:
    gone: list[str] = []

    def edit(topic: str, records: Records) -> Records:
        if topic != "flows.enriched.v1":
            return records
        gone.append(orjson.loads(records[40].value)["id"])
        return without(records, 40)

    copy.publish(edit)
    (what,) = faults(audited(1))
    chunk, _, number = gone[0].rpartition("/")
    assert what.startswith(f"{chunk} has")
    assert what.endswith(f"missing: flow {number}")


def test_a_record_that_stands_twice_in_the_enriched_topic_is_named(copy: Copy, audited: Audited) -> None:
    """The flow log has read beyond it and does not say that it put one aside."""
    again: list[str] = []

    def edit(topic: str, records: Records) -> Records:
        if topic != "flows.enriched.v1":
            return records
        again.append(orjson.loads(records[40].value)["id"])
        return [*records[:41], *records[40:]]

    copy.publish(edit)
    (what,) = faults(audited(1))
    assert f" is {again[0]} again, and not every such flow was put aside: flowlog says so of 0 of 1" in what


def test_a_corrected_flow_in_the_enriched_topic_is_named_and_not_counted(
    copy: Copy, audited: Audited, history: Lived
) -> None:
    def edit(topic: str, records: Records) -> Records:
        if topic != "flows.enriched.v1":
            return records
        value = orjson.dumps(orjson.loads(records[40].value) | {"attribution_version": 1})
        return [*records, replace(records[40], value=value)]

    copy.publish(edit)
    answer = audited(1)
    (what,) = faults(answer)
    assert "cannot be read: unsupported_version: attribution_version 1, this reader takes 0; and no dead letter" in what
    assert answer["deep"]["read"]["enriched"]["rows"] == len(history.flows)


def test_a_record_that_comes_again_behind_all_others_is_no_fault_yet(copy: Copy, audited: Audited) -> None:
    """Nobody has read it yet: whoever does skips it."""
    again: list[str] = []

    def edit(topic: str, records: Records) -> Records:
        if topic != "flows.enriched.v1":
            return records
        again.append(orjson.loads(records[40].value)["id"])
        return [*records, records[40]]

    copy.publish(edit)
    answer = audited(0)
    notes = [found["what"] for found in answer["deep"]["findings"] if found["source"] == "enriched"]
    assert len(notes) == 1
    assert notes[0].endswith(f" is {again[0]} again: readers skip it by its id")


def test_a_chunk_that_stands_twice_in_the_raw_topic_is_named(copy: Copy, audited: Audited) -> None:
    again: list[str] = []

    def edit(topic: str, records: Records) -> Records:
        if topic != "flows.raw.v1":
            return records
        # One that does not come again as it is, and moves no rubbish from the offset that its dead letter names.
        number = next(n for n, record in enumerate(records) if record.partition and b'"sequence":7,' in record.value)
        again.append(chunk_of(records[number]))
        return [*records[: number + 1], *records[number:]]

    copy.publish(edit)
    (what,) = faults(audited(1))
    assert f" is {again[0]} again, first at " in what
    assert what.endswith("and the enricher does not say that it put it aside")


def test_a_flow_that_stands_twice_in_a_file_is_named(copy: Copy, audited: Audited) -> None:
    copy.publish()
    path = max(copy.archive.rglob("*.parquet"), key=lambda each: each.stat().st_size)
    table = pq.read_table(path)
    again = table.column("id")[5].as_py()
    pq.write_table(pa.concat_tables([table, table.slice(5, 1)]), path)
    found = faults(audited(1))
    assert len(found) == 2
    assert f"{again} stands twice, once more in" in found[0]
    assert f"{path.name} holds {table.num_rows + 1} flows, manifest" in found[1]


def test_a_row_group_taken_out_of_a_file_is_named(copy: Copy, audited: Audited) -> None:
    copy.publish()
    path = max(copy.archive.rglob("*.parquet"), key=lambda each: each.stat().st_size)
    table = pq.read_table(path)
    pq.write_table(table, path, row_group_size=10)
    assert faults(audited(0)) == []
    whole = pq.ParquetFile(path)
    kept = [number for number in range(whole.num_row_groups) if number != 1]
    lost = table.slice(10, 10).column("id").to_pylist()
    pq.write_table(whole.read_row_groups(kept), path)
    found = faults(audited(1))
    assert sum(f"{path.name} holds {table.num_rows - 10} flows, manifest" in what for what in found) == 1
    for chunk in {flow_id.rpartition("/")[0] for flow_id in lost}:
        assert sum(what.startswith(f"{chunk} has") for what in found) == 1


def test_a_file_that_is_gone_and_one_that_is_rubbish_are_named(copy: Copy, audited: Audited) -> None:
    copy.publish()
    gone, spoilt, *_ = sorted(copy.archive.rglob("*.parquet"))
    gone.unlink()
    spoilt.write_bytes(b"PAR1 no more")
    found = faults(audited(1))
    assert sum(f"{gone.name} is missing" in what for what in found) == 1
    assert sum(f"{spoilt.name} cannot be read" in what for what in found) == 1


def test_a_window_taken_from_a_node_is_a_gap_of_that_node(copy: Copy, audited: Audited) -> None:
    window = "prod-eu/node-b1/5be6c2f0a91d/3/17"

    def edit(topic: str, records: Records) -> Records:
        if topic == "ledger.v1":
            return [record for record in records if window not in str(record.key)]
        if topic.startswith("flows"):
            return [record for record in records if record.value == RUBBISH or chunk_of(record) != f"{window}/0"]
        return records

    copy.publish(edit)
    answer = audited(1)
    gaps = {(gap["node"], gap["why"].partition(" (")[0]) for gap in answer["gaps"]}
    assert gaps == {(MISSING[0], f"sequence {MISSING[1]} missing"), ("node-b1", "sequence 17 missing")}
    assert answer["closes"]
    # The files have what the rest knows nothing of.
    (what,) = faults(answer)
    assert what.startswith(f"{window}/0 has")
    assert what.endswith("no entry of an enricher for it")


def test_entries_taken_out_of_the_ledger_are_named_with_the_hop(copy: Copy, audited: Audited) -> None:
    gone: dict[str, str] = {}

    def edit(topic: str, records: Records) -> Records:
        if topic != "ledger.v1":
            return records
        kept = []
        for record in records:
            hop, _, name = (record.key or b"").decode().split("/", 2)
            if hop in ("collector", "enricher") and "node-a2/" in name and hop not in gone and SPOILT[hop] in name:
                gone[hop] = name
                continue
            kept.append(record)
        return kept

    copy.publish(edit)
    answer = audited(1)
    short = {each["hop"]: each["window"] for each in answer["shortfalls"]}
    assert short["collector"] == gone["collector"]
    assert not answer["closes"]
    assert any("no entry of its collector" in what for what in faults(answer))
    assert any("the enricher passed over it" in what for what in faults(answer))
    assert any(line.startswith("collector, node-a2: ") for line in answer["explained"])


def test_a_compacted_archive_closes_and_what_is_gone_of_it_is_named(copy: Copy, audited: Audited) -> None:
    copy.publish()
    before = audited(0)
    done = compact_all(copy.archive)
    assert [len(each.after) for each in done] == [1, 1]
    after = audited(0)
    assert after["deep"] == before["deep"]
    (copy.archive / done[0].after[0].path).unlink()
    said = faults(audited(1))
    assert f"{done[0].after[0].path} is missing: a compaction of " in said[0]
    assert len(said) > 1, "each chunk that lacks flows is named"


def test_a_compacted_file_that_holds_other_flows_is_named(copy: Copy, audited: Audited) -> None:
    copy.publish()
    (path, *_) = [copy.archive / done.after[0].path for done in compact_all(copy.archive)]
    table = pq.ParquetFile(path).read()
    pq.write_table(pa.concat_tables([table.slice(1), table.slice(1, 1)]), path)
    said = faults(audited(1))
    assert any("stands twice, once more in" in what for what in said)
    assert any("the enricher gave out" in what for what in said)


def test_a_manifest_that_is_gone_is_named(copy: Copy, audited: Audited) -> None:
    copy.publish()
    by_partition = [sorted(path.glob("*.json")) for path in copy.archive.glob("_manifests/p=*")]
    many = max(by_partition, key=len)
    assert len(many) >= 2
    decode_manifest(many[0].read_bytes())
    many[0].unlink()
    assert faults(audited(1))
