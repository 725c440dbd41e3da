# SPDX-License-Identifier: Apache-2.0
"""`zonemeter changes`: what changed in the topology, and what became of the traffic that it concerns.

In: states of the topology topic, cells of evidence. Out: changes with their traffic before and after, as text or JSON.
May import history's advise, read, model, text and report, and what history may.
"""
