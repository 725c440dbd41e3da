# SPDX-License-Identifier: Apache-2.0
"""Reads the flow log's archive back: which files count, and their rows and rollups by DuckDB.

In: a directory or the URI of an object store, and a range. Out: rows, or sums. Raises one line for what is damaged.
May import `model`, the flow log's records and stores (`sinks.flowlog`), and of `read` what asks flows in SQL.
"""
