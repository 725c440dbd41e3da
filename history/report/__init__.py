# SPDX-License-Identifier: Apache-2.0
"""`zonemeter report`: what crossed zones, who sent it to whom, and what it costs.

In: flows of a range. Out: tables for people, JSON or CSV for programs, a page.
`sources` reads, `make` prices what was read and makes a report (`data`); `grouped` and `differences` derive from it;
`text`, `machine` and `page` print it. May import `read`, `text`, `page`, `model`, and the audit's verdict.
"""
