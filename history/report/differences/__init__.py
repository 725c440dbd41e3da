# SPDX-License-Identifier: Apache-2.0
"""What makes a range differ from the one before it (`--compare`). Pure.

In: two ranges of a report, and changes of the topology. Out: pairs with what they differ by, and as text for people.
May import the report's `data` and `model`.
"""
