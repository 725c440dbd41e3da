# SPDX-License-Identifier: Apache-2.0
"""A cluster on one machine: nodes, pods and the world outside as network namespaces, with real packets.

Beside it the lab's own Kubernetes API server, Apache Kafka from its jars, and an independent count of every byte.
In: a plan (`stories`). Out: a running cluster. May import every room but `bench` and `cli`.
"""
