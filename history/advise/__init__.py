# SPDX-License-Identifier: Apache-2.0
"""`zonemeter advise`: what to change, what it saves at most, and how sure that is.

In: cells of evidence and states of the topology topic. Out: findings, as text, JSON, YAML or markdown.
May import history's read, model, text and report, and what history may.
"""
