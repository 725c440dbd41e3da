# SPDX-License-Identifier: Apache-2.0
"""What every service needs: settings, errors, text for people, the life of a service, Kafka clients.

May import `schemas`. Knows no room.
"""
