# SPDX-License-Identifier: Apache-2.0
"""A collector of a version whose maps look otherwise: python -m tests.support.collector.another_version load|live ...

Its key has eight bytes more, in front, so that its rows stand in another order; its control and its record are longer;
and its codec makes other chunks of them: of two rows, in other words, with more in them than this version knows.

    load <request >answer           the loader
    live PIN_DIR ANSWER DEVICES     takes over, tells what it found, and after a line on stdin flips, tells the ports
                                    of the rows and the chunks that it may have published, and dies
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from collector.kernel import bpf_source, layout

ROWS_PER_CHUNK = 2


# What is changed in bpf/, by file.
SOURCES = {
    "layout.h": (
        ("struct flow_key {\n", "struct flow_key {\n    u64 colour;\n"),
        ("    u32 tunnels;", "    u64 more[3];\n    u32 tunnels;"),
    ),
    # Against the order of the sources: the first 16 bytes of a key decide otherwise.
    "account.h": (("    fold_ports(&key);\n", "    fold_ports(&key);\n    key.colour = 255 - key.dst_port % 256;\n"),),
}


def changed(file: Path, changes: Sequence[tuple[str, str]]) -> str:
    """Return a file's text with each of these in place of what it has."""
    text = file.read_text()
    for before, after in changes:
        assert text.count(before) == 1, f"{file} has not once: {before}"
        text = text.replace(before, after)
    return text


def change(directory: Path) -> None:
    """Make sources and layouts another version's; the modules that take them by name come after this."""
    sources = Path(shutil.copytree(bpf_source.SOURCES, directory / "bpf"))
    for name, changes in SOURCES.items():
        (sources / name).write_text(changed(sources / name, changes))
    bpf_source.SOURCES = sources
    layout.KEY = np.dtype([("colour", "<u8"), *layout.KEY.descr])
    layout.FAST_ENTRY = layout.fast_entry(layout.KEY)
    layout.ROW = np.dtype([("key", layout.KEY), ("tally", layout.TALLY)])
    layout.CONTROL = np.dtype(
        [("epoch", "<u4"), ("pad", "<u4"), ("more", "<u8", 3), ("tunnels", "<u4"), ("end", "<u4")]
    )


def change_record() -> None:
    """Give the record a field more and fewer uplinks, and another length of chunks."""
    from collector.kernel import epoch_record

    fields = [each if each[0] != "uplinks" else (*each[:2], (5,)) for each in epoch_record.RECORD.descr]
    epoch_record.RECORD = np.dtype([*fields[:3], ("mood", "<u8"), *fields[3:]])
    epoch_record.RECORD_BYTES = epoch_record.RECORD.itemsize
    following = epoch_record.following
    epoch_record.following = lambda *args: replace(following(*args), rows_per_chunk=ROWS_PER_CHUNK)


def change_codec() -> None:
    """Write out chunks with their fields and addresses the other way round, with spaces, and with a field more."""
    from collector.window import encode

    def encode_chunk(head: dict[str, Any], addresses: Sequence[str], columns: dict[str, Any]) -> bytes:
        plain = {name: np.asarray(column).tolist() for name, column in columns.items()}
        ends = {name: [len(addresses) - 1 - index for index in plain[name]] for name in ("src", "dst")}
        chunk = {"schema_version": 1, **head, "mood": "fine", "addresses": list(addresses)[::-1], **plain, **ends}
        return json.dumps(dict(reversed(chunk.items()))).encode()

    vars(encode)["encode_chunk"] = encode_chunk


def live(root: Path, answer: str, devices: str) -> None:
    """The life of its collector up to where it is killed: one window is frozen, another is open."""
    from collector.attach import netlink
    from collector.kernel.load_request import Answer
    from collector.window.encode import raw_chunks
    from collector.window.meter import Devices, Meter
    from tests.support.collector.metered import now_ms

    meter = Meter(root, netlink.device_counters, now_ms)
    meter.start(Answer(**json.loads(answer)), Devices({int(k): v for k, v in json.loads(devices).items()}, {}))
    found = []
    for window in meter.unfinished():
        found.append(_ports(window.rows()))
        meter.finish(window)
    _say(found)
    sys.stdin.readline()
    window = meter.flip(now_ms())
    chunks = raw_chunks(window.meta, window.record, window.rows(), maybe_repeat=False)
    _say([_ports(window.rows()), [chunk.decode() for chunk in chunks]])


def _say(found: object) -> None:
    sys.stdout.write(json.dumps(found) + "\n")  # noqa: TID251 - read by the test, and runs with other versions' code
    sys.stdout.flush()


def _ports(rows: Any) -> list[list[int]]:
    """Destination port and packets of UDP's rows, in their order."""
    chosen = rows[rows["key"]["protocol"] == 17]
    return [[int(key["dst_port"]), int(tally["packets"])] for key, tally in chosen]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        change(Path(made))
        change_record()
        change_codec()
        if sys.argv[1] == "load":
            from collector.kernel import loader

            sys.exit(loader.main())
        live(Path(sys.argv[2]), *sys.argv[3:])
