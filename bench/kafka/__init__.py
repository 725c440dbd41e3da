# SPDX-License-Identifier: Apache-2.0
"""Full topics, services that work them off, and the bare loops that are their yardsticks.

In: chunks of a bench cluster. Out: CPU seconds.
May import `made_up` and `measure`.
"""
