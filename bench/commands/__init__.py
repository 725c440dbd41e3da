# SPDX-License-Identifier: Apache-2.0
"""The commands that read history: report, advise, bill, audit, archive compact, and the forecast of `--simulate`.

In: archives, a bill and a ledger that are made up here. Out: seconds and bytes.
May import `measure`. What is measured runs in a process of `readers`, so that its memory and caches are its own.
"""
