# SPDX-License-Identifier: Apache-2.0
"""What becomes of a closed window: published, or spooled on disk while Kafka is away.

In: encoded windows. Out: acknowledged records, or files that are published later.
May import `window` and below.
"""
