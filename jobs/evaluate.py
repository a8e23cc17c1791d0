"""`harness run` as a Ray job on its own cluster: `ray job submit -- python -m harness.jobs.evaluate SPEC ...`."""

from __future__ import annotations

import sys

from harness.cli.commands import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:], "--address", "auto"]))
