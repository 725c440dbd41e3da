# SPDX-License-Identifier: Apache-2.0
"""Joins raw windows with who owned which address when, and publishes one record per flow."""
