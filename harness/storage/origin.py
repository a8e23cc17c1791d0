"""Where a stored result comes from: version of each kind of unit, of this program, of the libraries, and the time."""

from __future__ import annotations

import datetime
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Raise the first when extraction changes what it gives, the second when scoring does: older units are then not reused.
FEATURES_VERSION = 4
SCORES_VERSION = 6
# Raise it when words are read otherwise: older bits are then not reused.
SURPRISALS_VERSION = 1
CORPORA_VERSION = 1


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@cache
def libraries() -> str:
    """Versions of the libraries whose change may change what a model gives."""
    names = ("torch", "transformers", "tokenizers", "sentencepiece", "peft", "vllm", "bitsandbytes")
    found = []
    for name in names:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


@cache
def code_version() -> str:
    """Version of this program, with the commit where it runs from a checkout (".dirty" where files were changed)."""
    found = version("brain-alignment-harness")
    here = Path(__file__).parents[1]
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=10", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--", "."], cwd=here.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return found
    return f"{found}+{commit.stdout.strip()}{'.dirty' if dirty.stdout.strip() else ''}"
