# SPDX-License-Identifier: Apache-2.0
"""What aiokafka lacks below its clients: reasons of failed connections, bounded fetches, single settings of topics.

In: what brokers say. Out: what `clients` and `topic_admin` build on.
May import `auth`.
"""
