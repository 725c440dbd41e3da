# SPDX-License-Identifier: Apache-2.0
"""`zonemeter cidrs check`, `suggest` and `import`: a CIDR map tried on history, and made of what clouds say.

In: a map, flows of a range, files of a cloud's own command. Out: what it would name, entries worth writing, a map.
May import `read`, `text` and `model`.
"""
