# SPDX-License-Identifier: Apache-2.0
"""Reads history back, without disturbing what runs: a package for each question.

In: the topics and the flow log's archive, for a time range. Out: tables, files, a topic.
`read` gives flows, `model` filters and sums them, `text` prints them; all else are commands, a package each.
May import the enricher's pure join, the sinks' readers and the audit's books.
"""
