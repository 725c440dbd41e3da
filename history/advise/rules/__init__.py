# SPDX-License-Identifier: Apache-2.0
"""What advice looks for: a file for each kind of mistake, and one for what is none.

In: a `Case`, the evidence and the topology of its time. Out: findings; docs/advise.md has the table. Pure.
May import `finding`, and what history's model may.
"""
