# SPDX-License-Identifier: Apache-2.0
"""One window: flip, drain, clear, and its encoding as chunks.

In: the maps of a generation. Out: raw chunks and the ledger's amounts, as bytes.
May import `attach` and `kernel`.
"""
