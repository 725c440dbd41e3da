# SPDX-License-Identifier: Apache-2.0
"""Kafka in, Kafka out, each flow once in effect.

In: raw chunks, the topology topic. Out: enriched flows, ledger entries, dead letters, committed offsets.
May import all of the enricher but its wiring.
"""
