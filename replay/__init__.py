# SPDX-License-Identifier: Apache-2.0
"""Reads history back: from the topics, for a time range, without disturbing what runs."""
