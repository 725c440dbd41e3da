# SPDX-License-Identifier: Apache-2.0
"""The node that the collector runs on: checks before the start, locks, capabilities, `zonemeter detach`.

In: /proc, /sys, netlink. Out: refusals of one line.
May import all of the collector but its loop.
"""
