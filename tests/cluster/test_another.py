# SPDX-License-Identifier: Apache-2.0
"""The other version that `make cluster-test` upgrades to can be made of this checkout, and Python can read it."""

from tests.cluster import another
from tests.support.services import ROOT


def test_each_change_finds_its_place() -> None:
    files = another.files()
    for name, text in files.items():
        assert text != (ROOT / name).read_text()
        if name.endswith(".py"):
            compile(text, name, "exec")
    assert sum(another.COLUMN in text for text in files.values()) == 4
