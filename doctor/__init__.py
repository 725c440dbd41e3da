# SPDX-License-Identifier: Apache-2.0
"""`zonemeter doctor`: what is wrong with this node or the pipeline, and what to do. Changes nothing.

In: the node, what a collector pinned there, the topics, the archive. Out: findings, a line each.
May import every room that it looks at.
"""
