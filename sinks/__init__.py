# SPDX-License-Identifier: Apache-2.0
"""Takes enriched flows out of Kafka: Prometheus metrics, and a flow log of JSON lines or Parquet.

In: the enriched topic. Out: /metrics, files or objects, ledger entries, dead letters.
`intake` is what every sink takes flows by, `kafka_io` and `deliveries` what it does with Kafka.
May import `common` and `schemas`.
"""
