# SPDX-License-Identifier: Apache-2.0
"""Reconciles the ledger: by itself and all the time (`zonemeter run audit`), and for `zonemeter audit`."""
