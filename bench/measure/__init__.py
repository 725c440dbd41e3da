# SPDX-License-Identifier: Apache-2.0
"""What every benchmark needs.

In: a function to measure. Out: figures beside their yardsticks, tables and charts.
Knows no room.
"""
