# SPDX-License-Identifier: Apache-2.0
"""Where flows come from: the topics, the archive, or a join done again.

In: a range and its filters. Out: batches of flows, each flow once. The archive has a package of its own.
May import `model`.
"""
