"""Entry point for `python -m harness.cli`."""

import sys

from harness.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
