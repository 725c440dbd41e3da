# SPDX-License-Identifier: Apache-2.0
"""Reconciles the ledger, all the time (`zonemeter run audit`) and for `zonemeter audit`.

In: the ledger topic. Out: how many bytes are accounted for, and which are missing, by cluster and node.
May import `common` and `schemas`. Everything but `main` and `service` is pure.
"""
