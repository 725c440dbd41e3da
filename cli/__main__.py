# SPDX-License-Identifier: Apache-2.0
"""`python -m cli` is `zonemeter`."""

import sys

from cli.main import main

sys.exit(main())
