# SPDX-License-Identifier: Apache-2.0
"""Another version of zonemeter, as files that differ from this checkout's: what an upgrade may change, changes.

Its maps look otherwise, so that its program takes the present one's place; a flow has a field more, and a row of the
flow log a column for it, `made_by`; and it says another version of itself.
"""

import io
import tarfile
import time

from tests.support.collector.another_version import SOURCES, changed
from tests.support.services import ROOT

VERSION = "0.2.0"
COLUMN = "made_by"
_CHANGES = {
    **{f"bpf/{name}": changes for name, changes in SOURCES.items()},
    "collector/kernel/layout.py": (
        ("KEY = np.dtype(\n    [\n", 'KEY = np.dtype(\n    [\n        ("colour", "<u8"),\n'),
        (
            'np.dtype([("epoch", "<u4"), ("tunnels", "<u4")])',
            'np.dtype([("epoch", "<u4"), ("pad", "<u4"), ("more", "<u8", 3), ("tunnels", "<u4"), ("end", "<u4")])',
        ),
    ),
    "common/service/lifecycle.py": (('version("zonemeter")', f'"{VERSION}"'),),
    "enricher/join/values.py": (("self._end = f'", f'self._end = f\',"{COLUMN}":"{VERSION}"'),),
    "schemas/flow.py": (
        ("    id: str\n    start_ms", f"    {COLUMN}: str | UnsetType = UNSET\n    id: str\n    start_ms"),
    ),
    "sinks/flowlog/rows/columns.py": (
        ('    "attribution_version",\n', f'    "attribution_version",\n    "{COLUMN}",\n'),
    ),
    "sinks/flowlog/rows/parquet.py": (
        ("self._ids: list[str] = []", "self._ids: list[str] = []; self._made_by: list[str | None] = []"),
        ("self._ids += ", f"self._made_by += [text(flow.{COLUMN}) for flow in flows]; self._ids += "),
        ('            "raw_offset":', f'            "{COLUMN}": pa.array(self._made_by, pa.string()), "raw_offset":'),
    ),
}


def files() -> dict[str, str]:
    """Return the text of each file that differs, by its path."""
    return {name: changed(ROOT / name, changes) for name, changes in _CHANGES.items()}


def context(image: str) -> bytes:
    """Return what Docker builds this version's image from: that of this checkout, and these files in their places."""
    texts = {"Dockerfile": f"FROM {image}\nCOPY app /opt/zonemeter/app\n"}
    texts |= {f"app/{name}": text for name, text in files().items()}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(text.encode()), int(time.time())  # younger than what Python has compiled
            tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()
