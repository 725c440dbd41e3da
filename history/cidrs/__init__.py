# SPDX-License-Identifier: Apache-2.0
"""`zonemeter cidrs check` and `suggest`: a CIDR map tried on history.

In: a map, flows of a range. Out: what it would name, and entries that are worth writing.
May import `read`, `text` and `model`.
"""
