# SPDX-License-Identifier: Apache-2.0
"""`zonemeter replay --diff`: what was recorded beside a new join of the raw flows, and why the two differ.

In: flows of both sides. Out: differences added up, for people and for programs.
May import what `replay` writes with; all but `run` and `pairs` is pure.
"""
