# SPDX-License-Identifier: Apache-2.0
"""Flows, ledger entries and dead letters, published in order; and what of them is out already, read back.

In: joined chunks. Out: records in Kafka.
May import what workers share (`deps`) and the join.
"""
