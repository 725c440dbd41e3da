# SPDX-License-Identifier: Apache-2.0
"""A made-up cluster of any size in Kafka: its topology, and raw windows of its traffic as collectors publish them.

In: how many nodes, pods, flows and windows, and a seed. Out: records of the raw, ledger and topology topics.
Knows the collector's own encoding and publishing; nothing of the lab's network, and no packet is sent.
"""
