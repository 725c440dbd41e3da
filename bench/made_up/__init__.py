# SPDX-License-Identifier: Apache-2.0
"""A made-up cluster: its chunks and states, its Kubernetes objects, and an API server that hands those out.

In: how large it is. Out: records, objects, HTTP.
Imports no other package of the room.
"""
