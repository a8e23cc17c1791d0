"""Comparison of the harness with Brain-Score language, case by case, on recorded vectors.

Source: brain-score/language at 0e0bb4a2 (August 2026), as described with the vectors.
"""

from __future__ import annotations

from pathlib import Path

from harness.conformance import benchmarks, beyond_regression, recorded_models, regression
from harness.conformance.vectors import BENCHMARK, LINEAR, RIDGE, DamagedError, NotRunError, read
from harness.conformance.verdicts import Result


def run(folder: str) -> list[Result]:
    """Compare every case of a folder.

    Args:
        folder: contains .npz archives of vectors; other entries are listed as not run.

    Returns:
        One result per entry of the folder, two per regression (float64, mixed), sorted by name.

    Raises:
        ValueError: if the folder does not exist or contains no vectors.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"conform: {folder} is not a folder; give a folder with .npz vectors.")
    entries = sorted(root.iterdir())
    if not any(path.suffix == ".npz" for path in entries):
        raise ValueError(f"conform: no .npz vectors in {folder}; it contains {len(entries)} other entries.")
    return [result for path in entries for result in _results(path)]


def _results(path: Path) -> list[Result]:
    """Results of one entry; errors become results, so that the other entries are still compared."""
    kind = ""
    try:
        vectors = read(path)
        kind = vectors.kind
        if kind in (RIDGE, LINEAR):
            return list(regression.compare(vectors))
        if kind == BENCHMARK:
            return benchmarks.compare(vectors)
        if kind == "model":
            return [recorded_models.compare(vectors, path.parent)]
        return beyond_regression.compare(vectors)
    except NotRunError as error:
        return [Result(path.name if path.suffix != ".npz" else path.stem, kind, "not run", reason=str(error))]
    except DamagedError as error:
        return [Result(path.stem, kind, "damaged", reason=str(error))]
    except Exception as error:  # noqa: BLE001 - files from elsewhere may be wrong in unforeseen ways
        return [Result(path.stem, kind, "damaged", reason=f"cannot be compared: {type(error).__name__}: {error}")]
