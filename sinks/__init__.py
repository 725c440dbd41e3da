# SPDX-License-Identifier: Apache-2.0
"""Takes enriched flows out of Kafka: Prometheus metrics, and a flow log of JSON lines or Parquet.

In: the enriched topic. Out: /metrics, files or objects, ledger entries, dead letters.
`sink` is what a sink has to do; `runner` does the rest for all, by `intake`, `deliveries` and `kafka_io`.
May import `common` and `schemas`.
"""
