# SPDX-License-Identifier: Apache-2.0
"""The clouds' bills: a file for each, its columns and what its lines mean, as SQL for one form of all. Pure.

In: a file's columns. Out: which bill it is, and the SQL that makes `form.FORM` of its lines.
May import no other package of `bill`.
"""
