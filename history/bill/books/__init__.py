# SPDX-License-Identifier: Apache-2.0
"""What was metered beside what was billed: sums, the unit, the reasons of a difference and their sizes. Pure.

In: sums of a bill and of flows, by node and period. Out: a comparison.
May import history's model, and no other package of `bill`.
"""
