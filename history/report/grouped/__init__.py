# SPDX-License-Identifier: Apache-2.0
"""A report by owner, port or time (`--by`), and by period (`--per`): sums and showbacks. Pure.

In: a report. Out: lines that add up to all of its bytes and money, as text for people and as FOCUS rows for programs.
May import the report's `data` and `model`.
"""
