# SPDX-License-Identifier: Apache-2.0
"""What traffic costs by list price: dated price files, who is billed, exact arithmetic; `zonemeter prices`.

In: price files (data/ holds three clouds'). Out: a price for a flow and a day.
May import `common`.
"""
