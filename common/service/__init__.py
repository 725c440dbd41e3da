# SPDX-License-Identifier: Apache-2.0
"""The life of a service: start, health over HTTP, logging, draining, and an end that comes whatever hangs.

In: `ServiceSettings` and a coroutine. Out: an exit status.
Knows no room and no Kafka.
"""
