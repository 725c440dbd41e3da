# SPDX-License-Identifier: Apache-2.0
"""Amounts and tables for people, shared by the commands. Pure.

In: sums. Out: lines of text.
May import `model`.
"""
