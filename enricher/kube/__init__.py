# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes API, listed and watched, as changes of the topology.

In: lists and watch events. Out: states of nodes, pods and services, each with when it began.
`client` and `reflector` list and watch; `states` reads an object into a state; `observed` makes changes of it.
May import `index`.
"""
