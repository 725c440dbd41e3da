# SPDX-License-Identifier: Apache-2.0
"""`zonemeter replay`: the flows of a range again, to a file, a table or a topic.

In: flows of a range. Out: the same flows, their sum, or what differs where they are joined again.
May import `read`, `text` and `model`.
"""
