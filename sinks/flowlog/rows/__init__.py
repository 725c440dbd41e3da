# SPDX-License-Identifier: Apache-2.0
"""A flow as a row: its columns, and a file of rows as JSON lines or Parquet. Pure.

In: flows that were taken. Out: bytes of one file.
"""
