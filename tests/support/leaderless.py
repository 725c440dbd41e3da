# SPDX-License-Identifier: Apache-2.0
"""`zonemeter`, and a partition without a leader while a file is there: -m tests.support.leaderless TOPIC:N FILE WORDS

So it is where the only replica's broker is away, or a disk of it. The product has no hooks for this: aiokafka's idea of
the cluster is wrapped from outside.
"""

import os
import sys
from typing import Any

from aiokafka.cluster import ClusterMetadata

from cli.main import main
from common.kafka import clients

_NO_LEADER = -1


def arm(topic: str, partition: int, while_there: str) -> None:
    """Let the partition have no leader while the file is there."""
    real = ClusterMetadata.leader_for_partition

    def leader(self: Any, where: Any) -> Any:
        if where == (topic, partition) and os.access(while_there, os.F_OK):
            return _NO_LEADER
        return real(self, where)

    ClusterMetadata.leader_for_partition = leader
    # The partition is found again when metadata is: sooner than in a cluster, which is asked every 15 s.
    clients.METADATA_MS = 1_000


if __name__ == "__main__":
    name, _, number = sys.argv[1].rpartition(":")
    arm(name, int(number), sys.argv[2])
    del sys.argv[1:3]
    sys.exit(main())
