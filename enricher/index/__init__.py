# SPDX-License-Identifier: Apache-2.0
"""Who owned which address when, and what an address was as of a window. Pure.

In: states of the topology, CIDR entries. Out: an end point for an address and a time, or why there is none.
May import nothing of the enricher, no asyncio and no client library.
"""
