# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API server for pods, nodes and services.

In: a plan's objects, commands over HTTP. Out: lists and watches as the real one answers them.
Knows nothing of Kafka.
"""
