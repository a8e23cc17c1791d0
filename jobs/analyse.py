"""Entry point for `ray job submit -- python jobs/analyse.py OUT`: `harness analyse` of a finished run's tables."""

from __future__ import annotations

import sys

from harness.cli.commands import main

if __name__ == "__main__":
    sys.exit(main(["analyse", *sys.argv[1:]]))
