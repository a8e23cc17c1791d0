"""Brain-alignment harness: scores language models against brain recordings and reading times.

From Python: `evaluate`, `surprisal`, `load_scores` and `plan`, of harness/api. They are imported when first asked
for, so that `import harness` loads no heavy library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api.evaluation import evaluate
    from harness.api.forecasts import plan
    from harness.api.results import load_scores
    from harness.api.words import surprisal

__all__ = ["evaluate", "load_scores", "plan", "surprisal"]

_HOMES = {"evaluate": "evaluation", "load_scores": "results", "plan": "forecasts", "surprisal": "words"}


def __getattr__(name: str) -> Any:
    """Import one of the functions in `__all__`."""
    if name not in _HOMES:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(import_module(f"harness.api.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
