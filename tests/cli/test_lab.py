# SPDX-License-Identifier: Apache-2.0
"""`make clean` takes down what its own checkout brought up, and nobody else's lab."""

from pathlib import Path

import pytest

from cli import lab
from lab import cluster


@pytest.mark.parametrize(("made_by", "is_taken_down"), [("another", False), ("this", True), (None, True)])
def test_only_a_lab_of_this_checkout_is_taken_down(
    made_by: str | None,
    is_taken_down: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken_down: list[str] = []

    async def down(prefix: str) -> list[str]:
        taken_down.append(prefix)
        return []

    monkeypatch.setattr(cluster, "BASE", tmp_path)
    monkeypatch.setattr(cluster, "down", down)
    (tmp_path / "zz").mkdir()
    if made_by is not None:
        (tmp_path / "zz/checkout").write_text(str(cluster.ROOT) if made_by == "this" else "/home/another/zonemeter")
    assert lab.down(["--prefix", "zz", "--of-this-checkout"]) == 0
    assert taken_down == (["zz"] if is_taken_down else [])
    if not is_taken_down:
        assert capsys.readouterr().out == "lab zz belongs to /home/another/zonemeter; it was left as it is\n"
    assert lab.down(["--prefix", "zz"]) == 0
    assert taken_down[-1:] == ["zz"]
