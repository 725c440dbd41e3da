# SPDX-License-Identifier: Apache-2.0
"""Processes that read what a benchmark of the same name made: with zonemeter, or with the yardstick.

In: what to read with, and where. Out: one line of JSON.
"""
