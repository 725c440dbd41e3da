# SPDX-License-Identifier: Apache-2.0
"""Writes enriched flows, one row each, to stdout or to files in a directory or an object store."""
