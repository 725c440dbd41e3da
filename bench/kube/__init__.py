# SPDX-License-Identifier: Apache-2.0
"""A cluster of 100,000 pods, its API server, and the index that lists and follows it.

In: the cluster's size. Out: CPU seconds, bytes, delays.
May import the enricher.
"""
