# SPDX-License-Identifier: Apache-2.0
"""`zonemeter archive ...`: few, sorted files an hour in the place of many small ones, and none beyond their time.

In: an archive. Out: the same flows in other files, and records that say which files count.
May import `read` and `model`.
"""
