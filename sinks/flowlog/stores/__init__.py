# SPDX-License-Identifier: Apache-2.0
"""The place that `--output` names: a directory or an object store.

In: paths and bytes. Out: the same, durable, or an `OSError` of one line.
"""
