# SPDX-License-Identifier: Apache-2.0
"""Apache Kafka from its jars on this machine: one broker, which serves within seconds.

In: settings. Out: addresses to connect to.
Knows nothing of the lab's network.
"""
