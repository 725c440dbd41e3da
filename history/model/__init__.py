# SPDX-License-Identifier: Apache-2.0
"""What history is asked, and what it adds up to: ranges, filters, groups, sums, money. Pure.

In: flags. Out: filters as SQL, and what the sums mean.
May import nothing of history, no asyncio, no Kafka, no DuckDB.
"""
