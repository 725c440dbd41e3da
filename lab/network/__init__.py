# SPDX-License-Identifier: Apache-2.0
"""The lab's network namespaces, links and routes, and what really went over the wire.

In: a plan. Out: namespaces with addresses, and counts per pair of addresses.
Knows no service.
"""
