# SPDX-License-Identifier: Apache-2.0
"""What is pinned beside a generation's maps: whose it is. Read by every collector that comes after."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.errors import RecordError
from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import pins
from collector.kernel.bpf_syscall import MapType
from collector.kernel.pins import META_BYTES, WHOLE, Meta
from tests.support.collector import metered

META = Meta(digest="d", generation=3, cluster="lab", node="node-a1", boot_id="5be6c2f0a91d")


@pytest.fixture
def root() -> Iterator[Path]:
    """A pin directory with a generation whose meta is not pinned yet; directories stand for its maps."""
    made = metered.pin_dir("meta")
    for name in WHOLE:
        (made / "gen_3" / name).mkdir(parents=True)
    yield made
    for path in (made / "gen_3").glob("meta"):
        path.unlink()
    for path in sorted(made.rglob("*"), reverse=True):
        path.rmdir()
    made.rmdir()


def test_what_was_pinned_is_read(root: Path) -> None:
    assert pins.read_meta(root, 3) is None
    pins.pin_meta(root, META)
    assert pins.read_meta(root, 3) == META


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"", "not zonemeter's"),
        (b"\xff\xfe", "not zonemeter's"),
        (b"[]", "not zonemeter's"),
        (b'{"digest":"d","generation":3}', "missing required field"),
        (b'{"digest":"d","generation":3,"cluster":"c","node":7,"boot_id":"b"}', "Expected `str`"),
        (b'{"digest":"d","generation":3,"cluster":"c","node":"n","boot_id":"b","hook":"xdp"}', "Invalid enum value"),
        (b'{"digest":"d","generation":4,"cluster":"c","node":"n","boot_id":"b"}', "is generation 4's"),
    ],
)
def test_rubbish_is_refused_in_one_line(root: Path, value: bytes, says: str) -> None:
    with pins.closing_fd(sys_bpf.map_create(MapType.ARRAY, 4, META_BYTES, 1, "zm_meta")) as fd:
        sys_bpf.map_update(fd, bytes(4), value.ljust(META_BYTES, b"\0"))
        sys_bpf.obj_pin(fd, str(root / "gen_3" / "meta"))
    with pytest.raises(RecordError, match=rf"gen_3/meta[^\n]*{says}"):
        pins.read_meta(root, 3)
