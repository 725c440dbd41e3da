# SPDX-License-Identifier: Apache-2.0
"""The program and its maps: compiled, loaded, pinned, and read back as bytes and records.

In: bpf/, the settings a program is loaded with. Out: pinned programs, links and maps; records of what they hold.
May import nothing of the collector but its errors.
"""
