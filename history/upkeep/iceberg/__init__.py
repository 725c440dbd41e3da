# SPDX-License-Identifier: Apache-2.0
"""`zonemeter archive iceberg`: the archive's files as an Apache Iceberg table, which other engines read.

In: an archive and a catalog. Out: a table of exactly the files that count; no row is copied.
pyiceberg is imported here only, and only where the command is run: it comes with zonemeter[iceberg].
"""
