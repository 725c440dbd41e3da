# SPDX-License-Identifier: Apache-2.0
"""Benchmarks. Each figure stands beside a yardstick of the same run: absolute figures drift between machines.

A benchmark is a module `bench.NAME` with `make bench-NAME`: it measures rounds of both in turn
(`bench.measure.figure`) and writes its section of docs/benchmarks.md (`bench.measure.report`). They are not tests:
nothing here runs with `make test`. May import every room.
"""
