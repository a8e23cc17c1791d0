"""Entry point for `ray job submit -- python jobs/evaluate.py SPEC ...`: `harness run` on the cluster that it is on."""

from __future__ import annotations

import sys

from harness.cli.commands import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:], "--address", "auto"]))
