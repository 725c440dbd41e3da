# SPDX-License-Identifier: Apache-2.0
"""Which files count: rows collected until they are cut, manifests that list files, compactions that replace them.

In: rows of a partition. Out: files and manifests in a store.
May import `stores` and `rows`.
"""
