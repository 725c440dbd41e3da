# SPDX-License-Identifier: Apache-2.0
"""The flow log on stdout, for a log collector or a pipe. At least once: what a pipe has taken is not known.

After a crash the rows since the last position committed to the group come again; so may those of a pipe that broke.
"""

import os

from sinks.flowlog.archive import Cut
from sinks.flowlog.manifest import Manifest

DESCRIPTOR = 1


class Stdout:
    """Stands in for an archive; there is nothing to recover."""

    def recover(self, partition: int) -> Manifest | None:
        """Return None: the group's committed position is all there is."""
        del partition
        return None

    def write(self, cut: Cut) -> Manifest:
        """Write all rows; raise `BrokenPipeError` if nobody reads any more."""
        for hour_ms in sorted(cut.rows):
            for part in cut.rows[hour_ms].encode():
                _write_all(memoryview(part))
        return cut.manifest


def _write_all(rest: memoryview) -> None:
    # Not through sys.stdout: what it buffers would be lost, or written at exit, behind our back.
    while rest:
        rest = rest[os.write(DESCRIPTOR, rest) :]
