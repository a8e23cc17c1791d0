"""The trackers by name, and the one function that sends a run to them."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from harness.names import unknown

TRACKERS = ("mlflow", "wandb")  # names of the options, the extras, the libraries and of the modules with_...


def require_installed(names: Iterable[str]) -> None:
    """Check, before anything is computed, that the libraries are there.

    Raises:
        ValueError: if a tracker is unknown, or its library is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder ./wandb, which W&B makes, is no library
            raise ValueError(f"{name} is not installed; pip install 'brain-alignment-harness[{name}]'.")


def send(out: str, run: str | None, tracker: str) -> str:
    """Send settings, scores, figures and tables of a run to a tracker; one that was sent before is updated.

    Args:
        out: folder or URL that contains `tables`.
        run: name of a run; None is the one that started last.
        tracker: "mlflow" or "wandb".

    Returns:
        Where the run is found in the tracker.

    Raises:
        FileNotFoundError, ValueError: as in `contents.of_run` and `require_installed`; other errors are the tracker's.
    """
    from harness.tracking import contents

    require_installed([tracker])
    with tempfile.TemporaryDirectory(prefix="harness-track-") as folder:
        content = contents.of_run(out, run, Path(folder))
        return str(importlib.import_module(f"harness.tracking.with_{tracker}").send(content))
