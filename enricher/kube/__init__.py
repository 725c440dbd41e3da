# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes API, listed and watched, as changes of the topology.

In: lists and watch events. Out: states of nodes, pods and services, each with when it began.
`objects` is what the API gives; `pods`, `nodes` and `services` read it into states. May import `index`.
"""
