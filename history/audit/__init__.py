# SPDX-License-Identifier: Apache-2.0
"""`zonemeter audit`: whether every byte of a range is accounted for.

In: the ledger, and with `--deep` all topics and files. Out: a verdict, gaps, and what explains them.
May import `read`, `text` and `model`.
"""
