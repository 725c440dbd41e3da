# SPDX-License-Identifier: Apache-2.0
"""What runs on a node: programs at the hook side by side, the map's memory, and a collector's CPU and memory.

In: variants of the program, packets that cross a node. Out: nanoseconds a packet, seconds and bytes.
May import `kafka`, `measure` and the collector.
"""
