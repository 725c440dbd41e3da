# SPDX-License-Identifier: Apache-2.0
"""The wire contract: record types of every topic, their codecs, and the JSON Schema files beside them.

Rooms meet here and in Kafka, nowhere else. This package imports nothing of zonemeter's and does no I/O.
"""
