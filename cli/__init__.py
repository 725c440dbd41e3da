# SPDX-License-Identifier: Apache-2.0
"""The `zonemeter` command: wiring only."""
