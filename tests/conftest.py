"""What the tests of several folders share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from harness.models import model_table
from harness.runs.outcome import Outcome

ROOT = Path(__file__).resolve().parent.parent
# Ray's workers have the lowest priority by default, and would get no time beside other tests.
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with Ray come first: they take longest, and the others keep all processes busy at the end."""
    with_ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in with_ray)


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


@pytest.fixture(scope="module", autouse=True)
def no_ray_is_left():
    """A file's tests may share a local Ray, which the first of them starts; the next file's start their own."""
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture(scope="module", autouse=True)
def models_are_those_of_the_table():
    """Models of a file that a command was given stay known until its process ends."""
    before = dict(model_table.MODELS)
    yield
    model_table.MODELS.clear()
    model_table.MODELS.update(before)


@dataclass(frozen=True)
class FinishedQuickstart:
    """OUT of `harness run quickstart`, for tests that only read it; others take a copy."""

    out: str
    outcome: Outcome

    def copy_to(self, folder: Path) -> str:
        """A copy of OUT, which its test may change."""
        shutil.copytree(self.out, folder, dirs_exist_ok=True)
        return str(folder)


@pytest.fixture(scope="session")
def finished_quickstart(tmp_path_factory) -> FinishedQuickstart:
    """Made once, in a process of its own, for all workers of a test session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "quickstart"
    with FileLock(f"{folder}.lock"):
        said = Path(f"{folder}.json")
        if not said.exists():
            command = [sys.executable, "-m", "harness.cli", "run", "quickstart", "--out", str(folder), "--json"]
            said.write_text(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout)
    ended = json.loads(said.read_text())
    del ended["report"]
    return FinishedQuickstart(str(folder), Outcome(**ended | {"failures": tuple(ended["failures"])}))
