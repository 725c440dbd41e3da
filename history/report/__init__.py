# SPDX-License-Identifier: Apache-2.0
"""`zonemeter report`: what crossed zones, who sent it to whom, and what it costs.

In: flows of a range. Out: tables for people, JSON or CSV for programs.
May import `read`, `text`, `model`, and the audit's verdict.
"""
