"""Runs the command line: `python -m gnomon_server.cli COMMAND`."""

from __future__ import annotations

import sys

from gnomon_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
