# SPDX-License-Identifier: Apache-2.0
"""Where the program is attached: netfilter or tc, on which devices, followed as they come and go.

In: pinned programs, the node's devices. Out: links, what is missing of them, the node's own addresses.
May import `kernel`.
"""
