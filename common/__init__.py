# SPDX-License-Identifier: Apache-2.0
"""What every service needs: settings, logging, life cycle, health, Kafka clients. Knows no room."""
