"""``python -m spinevl VERB ...`` is ``spinevl VERB ...``."""

from __future__ import annotations

import sys

from spinevl.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
