# SPDX-License-Identifier: Apache-2.0
"""Joins raw windows with who owned which address when, and publishes one record per flow.

In: the raw topic, the Kubernetes API. Out: the enriched, topology, ledger and dead-letter topics. `main` wires.
A chunk goes through `delivery`, `join`, `index` and back; what Kubernetes says goes through `kube` to `index`.
May import `common` and `schemas`.
"""
