# SPDX-License-Identifier: Apache-2.0
"""What the clients prove themselves with: certificates, passwords and tokens, renewed while they run.

In: `KafkaSettings`. Out: what a new connection asks for.
Knows no client.
"""
