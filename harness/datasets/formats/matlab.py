"""Reads MAT files of version 5 to 7 (MATLAB's save without -v7.3)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Read variables of a file.

    Args:
        path: the file.
        names: the variables to read.

    Returns:
        name -> value: arrays without axes of length 1, structs as dictionaries, arrays of structs as object arrays of
        dictionaries, and a cell with a single element as that element.

    Raises:
        ValueError: if the file is damaged or has another version, or a variable is missing; names the file.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    damages = (OSError, EOFError, ValueError, TypeError, NotImplementedError, zlib.error, MatReadError)
    try:
        content: dict[str, Any] = loadmat(path, variable_names=list(names), simplify_cells=True)
    except damages as error:
        raise ValueError(f"{path} cannot be read as a MAT file of version 5 ({error}); download it again.") from error
    if missing := [name for name in names if name not in content]:
        raise ValueError(f"{path} has no variable {', '.join(missing)}; download it again.")
    return content
