# SPDX-License-Identifier: Apache-2.0
"""What is given from outside: files, read with a bound, and values of settings, checked.

In: what somebody wrote. Out: bytes and values, or an error that says what was expected instead.
Knows no room, and neither settings classes nor Kafka.
"""
