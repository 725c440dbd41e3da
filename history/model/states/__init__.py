# SPDX-License-Identifier: Apache-2.0
"""What a cluster was like at a time of the past. Pure.

In: states of the topology topic. Out: what changed, the labels of a namespace, the ready pods of a Service.
May import the enricher's order of states and history's time ranges, nothing else of history.
"""
