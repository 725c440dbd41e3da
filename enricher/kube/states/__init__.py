# SPDX-License-Identifier: Apache-2.0
"""An object of the Kubernetes API as a state of the topology. Pure.

In: `objects`, what the API gives. Out: the state of a pod, node, service, namespace or EndpointSlice.
May import `schemas`; nothing of `kube`.
"""
