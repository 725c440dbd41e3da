# SPDX-License-Identifier: Apache-2.0
"""Programs at the hook side by side, packets that cross a node, and the map's memory.

In: variants of the program. Out: nanoseconds a packet, bytes of memory.
May import `measure` and the collector.
"""
