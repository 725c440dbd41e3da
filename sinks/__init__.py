# SPDX-License-Identifier: Apache-2.0
"""Takes enriched flows out of Kafka: Prometheus metrics, and a flow log of JSON lines or Parquet."""
