# SPDX-License-Identifier: Apache-2.0
"""Benchmarks. Each figure stands beside a yardstick of the same run: absolute figures drift between machines.

`make bench-NAME` runs the module NAME of `node` (the hook and the collector), `services` (what works a topic off) or
`commands` (what reads history): it measures rounds of both in turn (`measure.figure`) and writes its section of
docs/benchmarks.md (`measure.report`). They are not tests: nothing here runs with `make test`. May import every room.
"""
