# SPDX-License-Identifier: Apache-2.0
"""Whatever stands where a setting names a file: one line that names it, at once, and never more of it in memory."""

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.host.preflight import read_boot_id
from common.errors import Refusal
from common.input.files import MAX_FILE_BYTES, owners_in, read_bounded, scratch, warn_if_others_write
from common.settings import ServiceSettings, load
from enricher.delivery.topology_topic import read_states
from enricher.index.cidrs import MAX_MAP_BYTES, load_cidr_map
from enricher.kube.client import KubeClient
from enricher.settings import EnricherSettings
from history.read.rejoin import ReadTally, known_states
from prices.command import check
from prices.file import load_prices
from schemas.topology import MAX_TOPOLOGY_FILE_BYTES

Read = Callable[[Path], object]

READERS = [
    pytest.param(
        lambda path: load(ServiceSettings, "run flowlog", ["--config", str(path)]), MAX_FILE_BYTES, id="config"
    ),
    pytest.param(lambda path: load_prices(str(path)), MAX_FILE_BYTES, id="prices"),
    pytest.param(lambda path: check([str(path)]), MAX_FILE_BYTES, id="prices check"),
    pytest.param(read_states, MAX_TOPOLOGY_FILE_BYTES, id="topology"),
    pytest.param(
        lambda path: asyncio.run(known_states(EnricherSettings(), path, ReadTally())),
        MAX_TOPOLOGY_FILE_BYTES,
        id="topology of a command",
    ),
    pytest.param(load_cidr_map, MAX_MAP_BYTES, id="CIDR map"),
    pytest.param(lambda path: asyncio.run(KubeClient("kubeconfig", path).open()), MAX_FILE_BYTES, id="kubeconfig"),
    pytest.param(read_boot_id, MAX_FILE_BYTES, id="boot id"),
]


@pytest.mark.parametrize(("read", "most"), READERS)
@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "device", "too large", "not UTF-8", "zeroes"])
def test_what_is_no_such_file_is_refused_in_one_line(
    read: Read, most: int, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    says = make(path, kind, most)
    try:
        assert read(path) == 1  # a check that found what is wrong
        line = capsys.readouterr().out.removesuffix("\n")
    except Refusal as refusal:
        line = str(refusal)
    except SystemExit as ended:
        assert ended.code == 2
        line = capsys.readouterr().err.removesuffix("\n")
    assert str(path) in line
    assert says in line
    assert (line.count("\n"), len(line) < 1000) == (0, True)


@pytest.mark.parametrize("text", ["[]", "1", "contexts: 3", "contexts: [{}]", "clusters: [[]]", "[" * 100_000, "a: *b"])
def test_a_kubeconfig_of_another_form_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(Refusal, match=rf"^kube: {path}: [^\n]*give --kubeconfig FILE"):
        asyncio.run(KubeClient("kubeconfig", path).open())


def make(path: Path, kind: str, most: int) -> str:
    """Make what is no file that anybody meant, and return what the line says of it."""
    if kind == "directory":
        path.mkdir()
        return "Is a directory"
    if kind == "pipe":
        os.mkfifo(path)
        return "is a pipe or a device, not a file"
    if kind == "device":
        path.symlink_to("/dev/zero")
        return "is a pipe or a device, not a file"
    if kind == "too large":
        path.touch()
        os.truncate(path, most + 1)
        return f"is larger than {most:,} bytes"
    if kind == "not UTF-8":
        path.write_bytes(b"\xff\xfe")
    if kind == "zeroes":
        path.write_bytes(bytes(1000))
    return "No such file" if kind == "missing" else ""


def test_a_file_of_the_greatest_size_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    assert read_bounded(path, 1000) == b"x" * 1000
    with pytest.raises(OSError, match="is larger than 999 bytes"):
        read_bounded(path, 999)


@pytest.mark.parametrize(
    ("mode", "uid", "says"),
    [
        pytest.param(0o750, 0, None, id="a directory of one's own"),
        pytest.param(0o2775, 0, None, id="a volume with fsGroup"),
        pytest.param(0o1777, 0, None, id="each to their own files"),
        pytest.param(0o777, 0, "everybody can write there (mode 0777)", id="an NFS provisioner's"),
        pytest.param(0o777, 65534, "it belongs to uid 65534 (mode 0777)", id="nobody's, of an NFS with root_squash"),
        pytest.param(0o755, 1000, "it belongs to uid 1000 (mode 0755)", id="another user's"),
    ],
)
@pytest.mark.root
def test_a_directory_in_which_others_may_remove_what_is_kept_is_one_line(
    tmp_path: Path, mode: int, uid: int, says: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    directory.chmod(mode)
    os.chown(directory, uid, -1)
    warn_if_others_write("state_dir", directory, owners_in(directory))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (says is not None)
    for line in lines:
        assert line.startswith(f"state_dir = '{directory}': {says}: others can remove what is kept there")
        assert "uid 0 or root, with mode 0750, or 2770" in line


def test_no_directory_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"no directory for temporary files can be made: .*/gone' is one that can be"):
        scratch(directory=tmp_path / "gone")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "gone")])
    with pytest.raises(Refusal, match=r"No usable temporary directory found in .*; expected that TMPDIR names one"):
        scratch()
