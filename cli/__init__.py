# SPDX-License-Identifier: Apache-2.0
"""The `zonemeter` command: the table of its words, and what spans several rooms.

In: argv. Out: an exit status; 2 for wrong settings. A command lives as `command.py` in the package that answers it.
May import every room.
"""
