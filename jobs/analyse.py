"""`harness analyse` as a Ray job: `ray job submit -- python -m harness.jobs.analyse OUT`."""

from __future__ import annotations

import sys

from harness.cli.commands import main

if __name__ == "__main__":
    sys.exit(main(["analyse", *sys.argv[1:]]))
