"""Metrics by name: those of kernels/metrics.py, of installed distributions, and functions given in Python."""

from __future__ import annotations

from collections.abc import Callable

from harness import plugins
from harness.kernels.arrays import Array
from harness.kernels.metrics import METRICS

GROUP: plugins.Group = "harness.metrics"


def find(name: str) -> Callable[[Array, Array], Array]:
    """Return the function of a metric: (row, neuroid) predictions and observations -> (neuroid,) scores.

    Raises:
        ValueError: if the name is unknown, or what an entry point names is no function.
    """
    plugin = _plugin(name)
    return _checked(name, plugin.value) if plugin.version else plugin.value


def version_of(name: str) -> str:
    """What distinguishes a metric from an earlier one of the same name; "" for the built-in ones."""
    return _plugin(name).version


def _plugin(name: str) -> plugins.Plugin:
    plugin = plugins.find(GROUP, name, METRICS)
    if plugin is None:
        raise ValueError(f"metric {name!r} is unknown; use one of {', '.join(plugins.known(GROUP, METRICS))}.")
    if not callable(plugin.value):
        raise ValueError(f"metric {name!r} is a {type(plugin.value).__name__}; give a function of two matrices.")
    return plugin


def _checked(name: str, function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """A metric from outside, whose scores are one per neuroid."""

    def score(predicted: Array, observed: Array) -> Array:
        scores = function(predicted, observed)
        if getattr(scores, "shape", None) != (observed.shape[1],):
            shape = getattr(scores, "shape", type(scores).__name__)
            raise ValueError(f"metric {name!r} returned {shape}; wanted one score per neuroid, {(observed.shape[1],)}.")
        return scores

    return score
