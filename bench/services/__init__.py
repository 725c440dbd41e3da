# SPDX-License-Identifier: Apache-2.0
"""The services that work topics off, alone and together, from ten nodes to 5,000, for a minute or a night.

In: full topics (`kafka`), a made-up cluster. Out: CPU seconds, bytes, delays.
May import `kafka`, `made_up` and `measure`.
"""
