# SPDX-License-Identifier: Apache-2.0
"""Raw records: decoded or refused, of a node that is taken, not taken before, and when they wait.

In: records of the raw topic. Out: chunks to join, or the reason why not.
May import the index, the join and `kube`.
"""
