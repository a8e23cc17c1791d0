"""Provenance of stored results: version of each kind of unit, of the program and the libraries, and the time."""

from __future__ import annotations

import datetime
import os
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Increase the first when extraction changes its results, the second when scoring does. Older units are not reused then.
FEATURES_VERSION = 5
SCORES_VERSION = 8
# Increase the first when surprisals of words change, the second when the t of units does, the third when corpora are
# divided into words differently.
SURPRISALS_VERSION = 1
LOCALISERS_VERSION = 1
CORPORA_VERSION = 1


def now(to: str = "seconds") -> str:
    """Current UTC time, to the second, or to the millisecond ("milliseconds")."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec=to)


@cache
def libraries() -> str:
    """Versions of the installed libraries that can change a model's outputs."""
    names = ("torch", "transformers", "tokenizers", "sentencepiece", "peft", "vllm", "bitsandbytes")
    versions = []
    for name in names:
        with suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    return ", ".join(versions)


@cache
def code_version() -> str:
    """Version of this program and its commit: of the checkout, with ".dirty" if files were changed, or HARNESS_COMMIT.

    The variable is set in images of the Dockerfile, which hold no checkout.
    """
    release = version("brain-alignment-harness")
    here = Path(__file__).parents[1]
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=10", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--", "."], cwd=here.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        commit_of_image = os.environ.get("HARNESS_COMMIT", "")
        return f"{release}+{commit_of_image}" if commit_of_image else release
    return f"{release}+{commit.stdout.strip()}{'.dirty' if dirty.stdout.strip() else ''}"
