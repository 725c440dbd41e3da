# SPDX-License-Identifier: Apache-2.0
"""`zonemeter archive iceberg` of an archive in an object store, with the rights that the documentation says."""

import re
from pathlib import Path

import pytest
from pyarrow import fs

from history.upkeep.iceberg.command import main
from tests.history.conftest import Command
from tests.support.history.windows import flows
from tests.support.history.written import BEGIN_MS, Written, compact_all
from tests.support.servers.clickhouse import clickhouse
from tests.support.servers.object_store import KEYS, add_user, port_of, put_policy, s3_bucket
from tests.support.services import ROOT


def documented() -> list[dict[str, object]]:
    """Return the policy in docs/engines.md, for the users `publisher` and `engine`."""
    section = (ROOT / "docs/engines.md").read_text().partition("### Least rights")[2].partition("\n#")[0]
    rows = [row.split("|")[1:4] for row in section.splitlines() if row.startswith("| ") and "s3:" in row]
    assert len(rows) == 5
    return [
        {
            "Effect": "Allow",
            "Principal": {"AWS": ["engine" if "engine" in who else "publisher"]},
            "Action": re.findall(r"`(s3:\w+)`", actions),
            "Resource": [
                found.replace("BUCKET", "flows").replace("PATH", "logs/zonemeter")
                for found in re.findall(r"`(arn:\S+)`", where)
            ],
        }
        for who, actions, where in rows
    ]


def test_an_archive_in_a_bucket(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, file = Written(tmp_path / "archive"), tmp_path / "catalog.db"
    for partition in range(3):
        written.cut(partition, flows(partition, 1))
    with s3_bucket(tmp_path_factory.mktemp("s3")) as uri:
        location, end_point = uri.format(path="/logs/zonemeter"), f"http://127.0.0.1:{port_of(uri)}"
        bucket, root = fs.FileSystem.from_uri(location)
        publisher, engine = add_user(uri, "publisher"), add_user(uri, "engine")
        put_policy(uri, documented())

        def published() -> str:
            fs.copy_files(str(written.root), root, destination_filesystem=bucket)
            with monkeypatch.context() as patch:
                for name, value in (KEYS | publisher).items():
                    patch.setenv(name, value)
                status, out, err = command(main, "--archive", location, "--catalog-file", str(file))
            assert (status, err) == (0, ""), err
            keys = ", ".join(f"'{value}'" for value in engine.values())
            table = f"iceberg('{end_point}/flows/logs/zonemeter/_iceberg/zonemeter/flows/', {keys})"
            (there,) = clickhouse(f"SELECT count() AS n, sum(bytes) AS b FROM {table}")
            assert (there["n"], int(there["b"])) == (
                len(written.rows()),
                sum(row["bytes"] for row in written.rows()),
            )
            return out

        assert published().startswith("zonemeter.flows: added 3 files of ")
        written.cut(0, flows(0, 2, start_ms=BEGIN_MS))
        compact_all(written.root)
        said = published()
        assert re.search(r"added 1 file of [^\n]* took out 3\n", said)
        assert "metadata: s3://flows/logs/zonemeter/_iceberg/zonemeter/flows/metadata/" in said
        kept = [file.read_bytes()]
        for each in bucket.get_file_info(fs.FileSelector(f"{root}/_iceberg", recursive=True)):
            if each.type == fs.FileType.File:
                with bucket.open_input_stream(each.path) as stream:
                    kept.append(stream.read())
        assert len(kept) > 5
        assert not any(b"secret" in content for content in kept)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        status, out, err = command(main, "--archive", location, "--catalog-file", str(file))
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "SignatureDoesNotMatch" in err
