"""What would make a score or a ceiling fit into memory: the settings under which its forecast is small enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from harness.cluster.placement import RESERVED
from harness.protocol import EQUAL_COMPONENTS, Protocol, equal_dimension
from harness.scoring.costs import Experiment

# Forecast of the memory of a recording's experiments under a protocol, in bytes.
Bytes = Callable[[Sequence[Experiment], Protocol], float]
_FEWEST = 100  # neuroids of a recording; with fewer, their number is not what takes the memory


def advice(experiments: Sequence[Experiment], protocol: Protocol, n_bytes: Bytes, available: float) -> str:
    """The settings under which the forecast fits, as sentences.

    Args:
        experiments: of the recording.
        protocol: as it is scored.
        n_bytes: the forecast.
        available: bytes of main memory.
    """
    fitting = [text for text, changed in _settings(protocol) if n_bytes(experiments, changed) <= available]
    total = sum(experiment.n_neuroids for experiment in experiments)
    factor = next((2**k for k in range(1, 20) if n_bytes(fewer(experiments, 2**k), protocol) <= available), 0)
    if factor and total // factor >= _FEWEST:
        fitting.append(f"at most {total // factor:,} of {total:,} neuroids (parcels, a region, or fewer subjects)")
    needed = f"a node with {math.ceil(n_bytes(experiments, protocol) / (1 - RESERVED) / 1e9)} GB of free memory"
    return f"It would fit with {', or '.join([*fitting, needed])}."


def _settings(protocol: Protocol) -> list[tuple[str, Protocol]]:
    """Other settings, with the words that name them."""
    settings = []
    if not protocol.components:
        settings.append((f"--protocol equal ({EQUAL_COMPONENTS} components)", equal_dimension(protocol)))
    if protocol.regression.precision == "float64":
        mixed = replace(protocol, regression=replace(protocol.regression, precision="mixed"))
        settings.append(('the regression\'s precision="mixed" (float32 where it is safe)', mixed))
    return settings


def fewer(experiments: Sequence[Experiment], factor: int) -> list[Experiment]:
    """The same experiments with the number of neuroids divided by a factor."""
    return [
        replace(
            experiment, present=tuple((mask, max(1, n // factor)) for mask, n in experiment.present),
            subjects={name: max(1, n // factor) for name, n in experiment.subjects.items()},
        )
        for experiment in experiments
    ]  # fmt: skip
