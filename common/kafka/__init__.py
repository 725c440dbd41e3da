# SPDX-License-Identifier: Apache-2.0
"""Kafka clients set up alike: credentials, bounded fetches, publishing that never passes a failure, topics.

In: `KafkaSettings`. Out: started clients of aiokafka, and errors that name the setting to look at.
Knows no room.
"""
