# SPDX-License-Identifier: Apache-2.0
"""One node's packets, counted in the kernel and published to the raw topic, a window at a time."""
