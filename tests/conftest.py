"""What the tests of several folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data: HARNESS_SHARED, or `shared` beside the repository. Absent: skip, but fail under CI."""
    folder = Path(os.environ.get("HARNESS_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        message = f"no real data at {folder}; set HARNESS_SHARED to the folder that holds data/."
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder
