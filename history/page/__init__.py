# SPDX-License-Identifier: Apache-2.0
"""How an answer becomes one page of HTML that needs no network: drawings, templates, the bound on its size.

In: numbers and names, as a report and advice have them. Out: a document; names are data in it, whatever they hold.
May import nothing of history but `model`.
"""
