# SPDX-License-Identifier: Apache-2.0
"""Counts enriched flows and serves the counts to Prometheus."""
