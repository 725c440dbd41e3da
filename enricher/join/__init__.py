# SPDX-License-Identifier: Apache-2.0
"""One raw chunk to enriched flows and ledger amounts. Pure.

In: a decoded chunk, and its addresses resolved. Out: flows as columns, their JSON, and what was taken and put aside.
May import `index`.
"""
