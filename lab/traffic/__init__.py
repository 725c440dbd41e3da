# SPDX-License-Identifier: Apache-2.0
"""Real TCP and UDP between the pods of a lab.

In: a plan's streams. Out: packets.
May import `network`.
"""
