# SPDX-License-Identifier: Apache-2.0
"""An object store as a place for files: one writer wins, an error is one line, and no credential is in any."""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from common.errors import Refusal
from sinks.flowlog.archive.archive import Archive
from sinks.flowlog.archive.manifest import Manifest, read_manifest
from sinks.flowlog.stores import object_client
from sinks.flowlog.stores.object_client import open_client
from sinks.flowlog.stores.objects import ObjectStore, StoreError
from sinks.flowlog.stores.opening import open_store
from sinks.flowlog.stores.store import LocalStore
from sinks.sink import Overtaken
from tests.sinks.flowlog.test_archive import TOPIC
from tests.sinks.flowlog.test_archive import cut as cut_of
from tests.support.servers.object_store import KEYS, add_user, port_of, put_policy, s3_bucket, s3_server
from tests.support.servers.s3_faults import (
    S3Faults,
    cut,
    lagging,
    now_and_then,
    refuse,
    s3_faults,
    unanswered,
    unconditional,
)
from tests.support.services import ROOT


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket's URI, with a place for the path."""
    with s3_bucket(tmp_path_factory.mktemp("s3")) as uri:
        yield uri


@pytest.fixture
def faults(bucket: str) -> Iterator[S3Faults]:
    """The proxy in front of the bucket."""
    with s3_faults(port_of(bucket)) as proxy:
        yield proxy


def through(bucket: str, faults: S3Faults, path: str) -> str:
    return bucket.replace(str(port_of(bucket)), str(faults.port)).format(path=path)


def test_of_eight_writers_of_one_manifest_one_wins(bucket: str) -> None:
    uri = bucket.format(path="/race")
    archives = [Archive(open_store(uri), TOPIC, ".parquet") for _ in range(8)]
    store = open_store(uri)
    outcomes: list[Manifest | None] = []
    for number in range(1, 11):
        together = threading.Barrier(len(archives))

        def write(archive: Archive, number: int = number, together: threading.Barrier = together) -> None:
            together.wait()
            try:
                outcomes.append(archive.write(cut_of(number, b"rows")))
            except Overtaken:
                outcomes.append(None)

        threads = [threading.Thread(target=write, args=(archive,)) for archive in archives]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [won] = filter(None, outcomes[-len(archives) :])
        assert read_manifest(store.read(f"_manifests/p=3/{number:012}.json"), 3, number) == won
    assert len(outcomes) == 10 * len(archives)
    assert len(store.names("flows/date=2026-11-22/hour=22")) == 10, "the losers took their files back"


def test_hours_are_listed_together_as_one_by_one(bucket: str, tmp_path: Path) -> None:
    """One request lists a thousand objects, whatever hours they are of."""
    stores = [open_store(bucket.format(path="/listed")), LocalStore(tmp_path)]
    for store in stores:
        for path in ("hour=01/a", "hour=01/b", "hour=02/c", "hour=03/deep/d", "e"):
            store.put(f"flows/date=2026-11-23/{path}", [b""])
        store.put("flows/date=2026-11-234/hour=01/f", [b""])
    day = [f"hour={hour:02}" for hour in range(24)]
    wanted = [[], ["a", "b"], ["c"], ["deep"], *[[]] * 20]
    for store in stores:
        some = store.names_in("flows/date=2026-11-23", [day[1], day[3]])
        assert [*map(sorted, some)] == [wanted[1], wanted[3]]
        assert [*map(sorted, store.names_in("flows/date=2026-11-23", day))] == wanted


def test_of_a_day_no_more_is_held_than_the_names_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy cluster's day has a million objects: the pages of a listing are read one by one, or not at all."""
    pages = []

    def listed(_: object, directory: str) -> Iterator[list[dict[str, str]]]:
        for hour in range(24):
            pages.append(hour)
            yield [{"path": f"{directory}/hour={hour:02}/{number}"} for number in range(1_000)]

    monkeypatch.setattr("sinks.flowlog.stores.objects.obstore.list", listed)
    store = ObjectStore(MemoryStore())
    store.put("day/hour=03/a", [b""])
    assert store.names_in("day", ["hour=03", "hour=04", "hour=05"]) == [["a"], [], []]
    assert pages == []
    assert [len(names) for names in store.names_in("day", [f"hour={hour:02}" for hour in range(6, 24)])] == [1_000] * 18
    assert pages == [*range(24)]


def test_a_store_without_conditions_is_told_and_looked_into_first(
    bucket: str, faults: S3Faults, caplog: pytest.LogCaptureFixture
) -> None:
    faults.add(unconditional, "PUT")
    store = open_store(through(bucket, faults, "/plain"))
    assert "lacks If-None-Match" in caplog.text
    assert store.create("a", [b"1"])
    assert not store.create("a", [b"2"])
    assert store.read("a") == b"1"


def test_a_store_that_refuses_conditions_is_told_too(
    bucket: str, faults: S3Faults, caplog: pytest.LogCaptureFixture
) -> None:
    faults.add(refuse(501, "NotImplemented"), "PUT", times=1)
    faults.add(refuse(400, "InvalidArgument"), "PUT", times=1)
    open_store(through(bucket, faults, "/plain"))
    assert "lacks If-None-Match" in caplog.text


def test_a_store_with_conditions_leaves_no_probe_and_no_word(bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    assert open_store(bucket.format(path="/probed")).names("") == []
    assert caplog.text == ""


def test_a_manifest_whose_answer_was_lost_is_ours(bucket: str, faults: S3Faults) -> None:
    archive = Archive(open_store(through(bucket, faults, "/lost")), TOPIC, ".parquet")
    faults.add(unanswered, "PUT", r"_manifests/p%3D3/000000000001.json|_manifests/p=3/000000000001.json", times=1)
    try:
        archive.write(cut_of(1, b"rows"))
    except OSError:
        archive.write(cut_of(1, b"rows"))
    assert archive.recover(3) is not None
    assert len(open_store(bucket.format(path="/lost")).names("flows/date=2026-11-22/hour=22")) == 1


def test_whatever_a_store_does_nothing_is_lost_or_doubled(
    bucket: str, faults: S3Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(object_client._RETRY, "max_retries", 0)  # so that all of it reaches the archive
    archive = Archive(ObjectStore(open_client(through(bucket, faults, "/bad"))), TOPIC, ".parquet")
    trouble = now_and_then(
        0.25, refuse(503, "SlowDown"), unanswered, refuse(429, "TooManyRequests"), cut, refuse(400, "ExpiredToken")
    )
    faults.add(trouble)
    for number in range(1, 13):
        insist(lambda number=number: archive.write(cut_of(number, b"%d" % number)))  # type: ignore[misc]
    newest = insist(lambda: Archive(archive._store, TOPIC, ".parquet").recover(3))
    faults.heal()
    store = open_store(bucket.format(path="/bad"))
    listed = [read_manifest(store.read(f"_manifests/p=3/{n:012}.json"), 3, n).files for n in range(1, 13)]
    assert newest.sequence == 12
    assert [store.read(file.path) for [file] in listed] == [b"%d" % number for number in range(1, 13)]
    assert len(store.names("flows/date=2026-11-22/hour=22")) == 12, "what does not count is gone"
    assert len(faults.asked) > 80


def insist(step: Callable[[], Any]) -> Any:
    """Do it until it is done, as the runner does."""
    for _ in range(50):
        try:
            return step()
        except OSError:
            continue
    pytest.fail("it never came through")


def test_a_listing_that_lags_behind_does_not_set_a_partition_back(bucket: str, faults: S3Faults) -> None:
    archive = Archive(open_store(through(bucket, faults, "/lagging")), TOPIC, ".parquet")
    written = [archive.write(cut_of(number, b"rows")) for number in (1, 2, 3)]
    faults.add(lagging(r"00000000000[23]\.json"), "GET")
    assert archive.recover(3) == written[-1]
    faults.add(lagging(r"\.json"), "GET")
    faults.rules.reverse()
    assert archive.recover(3) == written[-1]


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        pytest.param("s3://no-such-bucket/x", "NoSuchBucket: The specified bucket does not exist", id="bucket"),
        pytest.param("s3:///x", "names no bucket", id="no-bucket"),
        pytest.param("s3://flows/x#2", "its path would be 'x'", id="number-sign"),
        pytest.param("s3://flows/x/../y", "its path would be 'y'", id="dots"),
        pytest.param("s3://key:se/cret@flows/x", "credentials", id="credentials"),
        pytest.param("s3://flows/x?X-Amz-Signature=secret", "'X-Amz-Signature' is not an option", id="presigned"),
        pytest.param("abfss://box@account.dfs.core.windows.net/x?sig=secret", "'sig' is not an option", id="sas"),
        pytest.param("https://flows.s3.amazonaws.com/x?X-Amz-Signature=secret", "not an option", id="https"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused_in_one_line(bucket: str, uri: str, says: str) -> None:
    if uri.startswith("s3://") and "?" not in uri:
        uri += bucket.partition("}")[2]
    with pytest.raises(Refusal, match=re.escape(says)) as refused:
        open_store(uri)
    assert "\n" not in str(refused.value)
    assert "cret" not in str(refused.value).replace("credentials", "")


def test_a_wrong_secret_is_refused_and_no_signature_is_repeated(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    with pytest.raises(Refusal) as refused:
        open_store(bucket.format(path="/x"))
    assert "SignatureDoesNotMatch" in str(refused.value)
    assert len(str(refused.value)) < 400
    assert "Sign" not in str(refused.value).replace("SignatureDoesNotMatch", "")


def test_without_credentials_it_says_so(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(Refusal, match="no AWS credentials"):
        open_store(bucket.format(path="/x"))


def test_credentials_of_a_profile_are_found_and_read_again(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("aws") / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "logs")
    monkeypatch.setattr("sinks.flowlog.stores.object_client._CREDENTIALS_SECONDS", -1)
    file.write_text("[logs]\naws_access_key_id = tests\naws_secret_access_key = outdated-secret\n")
    store = ObjectStore(open_client(bucket.format(path="/profile")))
    with pytest.raises(StoreError, match="SignatureDoesNotMatch"):
        store.put("a", [b"1"])
    file.write_text("[logs]\naws_access_key_id = tests\naws_secret_access_key = tests-secret\n")
    assert store.put("a", [b"1"]) == 1


@pytest.mark.process
def test_the_least_rights_in_the_documentation_are_enough(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = (ROOT / "docs/archive.md").read_text().partition("**Least rights**")[2].partition("\n\n")[2]
    rights = [re.findall(r"`(s3:\w+)`", row.split("|")[2]) for row in table.partition("\n\n")[0].splitlines()[2:]]
    assert len(rights) == 3
    with s3_server(tmp_path_factory.mktemp("s3")) as uri:
        writer, reader = add_user(uri, "writer"), add_user(uri, "reader")
        bucket, place = "arn:aws:s3:::flows", uri.format(path="/logs/zonemeter")
        whom = (["writer"], f"{bucket}/logs/*"), (["reader"], f"{bucket}/logs/*"), (["writer", "reader"], bucket)
        put_policy(
            uri,
            [
                {"Effect": "Allow", "Principal": {"AWS": users}, "Action": actions, "Resource": where}
                for actions, (users, where) in zip(rights, whom, strict=True)
            ],
        )
        for name, value in (KEYS | writer).items():
            monkeypatch.setenv(name, value)
        archive = Archive(open_store(place), TOPIC, ".parquet")
        written = archive.write(cut_of(1, b"rows"))
        assert archive.recover(3) == written
        with pytest.raises(Refusal, match="AccessDenied"):
            open_store(uri.format(path="/elsewhere"))
        for name, value in reader.items():
            monkeypatch.setenv(name, value)
        store = ObjectStore(open_client(place))
        assert store.names("_manifests/p=3") == ["000000000001.json"]
        assert read_manifest(store.read("_manifests/p=3/000000000001.json"), 3, 1) == written
        assert store.read_range(written.files[0].path, 1, 2) == b"ow"
        assert not store.exists("none")
        for change in (lambda: store.put("new", [b""]), lambda: store.delete(written.files[0].path)):
            with pytest.raises(StoreError, match=r"Access ?Denied"):
                change()
