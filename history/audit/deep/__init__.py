# SPDX-License-Identifier: Apache-2.0
"""`zonemeter audit --deep`: topics and files read whole and held against the ledger.

In: raw, enriched and ledger topics, the archive. Out: facts, one for each thing that disagrees.
May import `read` and `model`.
"""
