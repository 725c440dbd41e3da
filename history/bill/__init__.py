# SPDX-License-Identifier: Apache-2.0
"""`zonemeter bill`: what was metered beside what the cloud bills for it, and why the two differ.

In: files of a bill, and flows of its time. Out: tables for people, JSON or CSV for programs, a price file.
`read` makes one form of every cloud's lines, `metered` sums flows up by node; `compare` and what it takes are pure.
May import `report`'s reading of flows, and the audit's verdict.
"""
