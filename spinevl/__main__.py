"""``python -m spinevl VERB ...`` is ``spinevl VERB ...``."""

from __future__ import annotations

import os
import sys

# ``-m`` puts the working directory in front of everything that is installed. A folder of data is
# not a place for code, and the console script does not look there either. It stays where it holds
# this package: a checkout that is not installed.
_HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
if not sys.flags.safe_path and os.path.abspath(sys.path[0]) != _HOME:  # noqa: PTH100
    del sys.path[0]

from spinevl.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
