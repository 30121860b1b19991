"""`python -m fastvhost` is `fastvhost`."""

from __future__ import annotations

import sys

from fastvhost.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
