# SPDX-License-Identifier: Apache-2.0
"""One node's packets, counted in the kernel and published to the raw topic, a window at a time.

In: packets. Out: raw chunks and ledger entries in Kafka. `main` wires, `collect` is the loop.
From the packet to Kafka: `kernel`, `attach`, `window`, `outbox`; `host` is the node around them.
May import `common` and `schemas`.
"""

import os

# Before numpy is imported: it would start a thread for each CPU, for algebra that nobody does here, and each would
# keep the rights that the collector gives up (`privileges`).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
