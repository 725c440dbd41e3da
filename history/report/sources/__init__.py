# SPDX-License-Identifier: Apache-2.0
"""What a report is made of: a range's flows, labels of its namespaces, the meter's own addresses.

In: the archive, Kafka's topics, Kafka's addresses. Out: summaries and evidence by range, and what a label was.
May import `read` and `model`; nothing of `report`.
"""
