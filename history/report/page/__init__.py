# SPDX-License-Identifier: Apache-2.0
"""A report as a page (`-o html`). Pure.

In: a report. Out: what the templates of `history/page` show: `layout` has all of it, from the other files' parts.
May import the report's `text`, `grouped`, `differences` and `data`, and `history.page`.
"""
