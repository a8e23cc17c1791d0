"""Names of the arrays of a whole benchmark: which quantity they hold, and of which experiment, metric, layer and split.

A benchmark has several experiments, metrics and layers, and recordings spell them differently ("r_243_ridge",
"243sentences-ridge__r", "Pereira2018.243sentences-ridge.raw"). A name is divided into labels that are known from the
file (experiments, layers), metrics, a number (the split), and the rest, which names the quantity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.conformance.rows import words

METRICS = ("ridge", "linear")
# Arrays or lists of `meta` with the labels of the experiments, and with those of the layers.
EXPERIMENT_NAMES = ("experiment", "experiments", "experiment_id")
LAYER_NAMES = ("layer", "layers", "neuroid_layer", "feature_layer", "X_layer", "layer_id", "layer_name", "layer_names")
# Words that carry no information once experiment and metric are known.
_FILLERS = {
    "pereira", "pereira2018", "blank", "blank2014", "tuckute", "tuckute2024", "benchmark", "made", "pearsonr",
    "shuffle", "sentences", "experiment", "exp", "brainscore",
}  # fmt: skip
# Quantity -> names under which it is recorded, words joined by "_".
QUANTITIES: dict[str, tuple[str, ...]] = {
    "X": ("x", "features", "activations", "model_activations", "representations", "source"),
    "Y": ("y", "responses", "assembly", "data", "target", "targets", "recording"),
    "r": ("r", "raw_r", "correlations", "r_per_split", "r_per_neuroid", "r_per_split_neuroid", "r_split_neuroid",
          "per_neuroid_r", "neuroid_r", "raw_raw"),
    "per_split": ("per_split_score", "per_split_scores", "per_split", "split_scores", "score_per_split",
                  "scores_per_split", "raw_per_split", "per_split_raw"),
    "raw": ("raw", "raw_score", "score_raw", "raw_scores", "unceiled", "unceiled_score", "score_unceiled",
            "unnormalised_score", "unnormalized_score"),
    "score": ("score", "scores", "final_score", "overall", "overall_score", "score_overall", "mean_score", "total"),
    "normalised": ("normalised", "normalized", "normalised_score", "normalized_score", "score_normalised",
                   "score_normalized", "ceiling_normalised", "ceiling_normalized", "ceiling_normalised_score",
                   "ceiling_normalized_score", "score_ceiling_normalised", "score_ceiling_normalized", "ceiled",
                   "ceiled_score", "score_ceiled"),
    "unclipped": ("original_out_of_range_score", "out_of_range_score", "original_score", "unclipped_score"),
    "ceiling": ("ceiling", "ceilings", "noise_ceiling", "ceiling_score"),
    "neuroid_ceiling": ("neuroid_ceiling", "neuroid_ceilings", "ceiling_raw", "raw_ceiling", "ceiling_per_neuroid",
                        "per_neuroid_ceiling", "ceiling_neuroid"),
    "layer_scores": ("layer_scores", "layer_score", "score_per_layer", "scores_per_layer", "score_layer"),
    "layer_raw": ("layer_raw", "layer_raw_scores", "raw_layer_scores", "raw_per_layer"),
    "train": ("train", "train_rows", "train_indices"),
    "test": ("test", "test_rows", "test_indices"),
    "pred": ("pred", "preds", "prediction", "predictions", "predicted"),
    "alpha": ("alpha", "alpha_chosen", "chosen_alpha", "best_alpha"),
    "alphas": ("alphas", "alpha_grid"),
    "rank": ("rank", "ranks"),
    "r_order": ("r_neuroid_order", "r_neuroid_id", "neuroid_order", "r_neuroid_ids", "raw_neuroid_id"),
    "X_stimulus_id": ("x_stimulus_id", "x_stimulus_ids", "model_stimulus_id", "source_stimulus_id",
                      "features_stimulus_id", "activations_stimulus_id", "predictions_stimulus_id"),
    "stimulus_id": ("stimulus_id", "stimulus_ids", "y_stimulus_id", "data_stimulus_id", "target_stimulus_id"),
    "neuroid_id": ("neuroid_id", "neuroid_ids", "y_neuroid_id", "data_neuroid_id", "target_neuroid_id"),
    "subject": ("subject", "subjects", "subject_id"),
    "group": ("group", "groups", "story", "stories", "y_story", "y_group"),
}  # fmt: skip
_QUANTITY_OF = {spelled: quantity for quantity, spellings in QUANTITIES.items() for spelled in spellings}
# Number of dimensions of a quantity, without one for experiments, metrics or layers.
N_DIMENSIONS = {"X": 2, "Y": 2, "r": 2, "pred": 2, "raw": 0, "score": 0, "normalised": 0, "unclipped": 0, "ceiling": 0}


class Key(NamedTuple):
    """What an array holds; experiment, metric and layer are "", and split is -1, where the name does not say."""

    quantity: str
    experiment: str = ""
    metric: str = ""
    layer: str = ""
    split: int = -1


def key_of(name: str, experiments: Sequence[str], layers: Sequence[str]) -> Key | None:
    """The key of an array's name; None if the rest of the name is no known quantity.

    Args:
        name: of the array.
        experiments: labels that may occur in the name.
        layers: labels that may occur in the name.
    """
    rest, layer = _without(name, layers)
    rest, experiment = _without(rest, experiments)
    parts = words(rest)
    if not experiment:
        by_number = {number: label for label in experiments for number in re.findall(r"\d{2,}", label)}
        found = [part for part in parts if re.sub(r"\D", "", part) in by_number and len(part) < 16]
        experiment = by_number[re.sub(r"\D", "", found[0])] if found else ""
        parts = [part for part in parts if part not in found[:1]]
    metric = next((metric for metric in METRICS if metric in parts), "")
    numbers = [part for part in parts if part.isdigit()]
    kept = [part for part in parts if part not in {metric, *numbers} | _FILLERS]
    quantity = _QUANTITY_OF.get("_".join(kept))
    if quantity is None or len(numbers) > 1:
        return None
    return Key(quantity, experiment, metric, layer, int(numbers[0]) if numbers else -1)


def _without(name: str, labels: Sequence[str]) -> tuple[str, str]:
    """The name without the longest label that occurs in it as whole words, and that label or ""."""
    for label in sorted(labels, key=len, reverse=True):
        spelled = r"[^A-Za-z0-9]+".join(re.escape(part) for part in re.split(r"[^A-Za-z0-9]+", label) if part)
        match = spelled and re.search(rf"(?<![A-Za-z0-9]){spelled}(?![A-Za-z0-9])", name, re.IGNORECASE)
        if match:
            return name[: match.start()] + "_" + name[match.end() :], label
    return name, ""


def experiments_in(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> list[str]:
    """Labels of the experiments: recorded, or those of Pereira2018 that occur in the names of arrays or benchmarks."""
    recorded = labels_in(arrays, meta, EXPERIMENT_NAMES)
    if recorded:
        return recorded
    names = " ".join([*arrays, *map(str, (meta.get("benchmark", ""), meta.get("benchmarks", "")))])
    return sorted(set(re.findall(r"(?<!\d)(?:243|384)(?:sentences)?(?!\d)", names)))


def layers_in(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any], experiments: Sequence[str]) -> list[str]:
    """Labels of the layers: recorded, or what distinguishes the names of the features ("X_transformer.h.0")."""
    recorded = labels_in(arrays, meta, LAYER_NAMES)
    if recorded:
        return recorded
    found = set()
    for name, array in arrays.items():
        match = re.fullmatch(r"(?:X|features|activations)_+(.+)", _without(name, experiments)[0].rstrip("_"))
        if match and array.ndim > 1 and array.dtype.kind == "f":
            found.add(match[1].strip("_"))
    return sorted(found)


def labels_in(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Sorted distinct labels of the first array or list of `meta` with one of the names; [] if there is none."""
    for name in names:
        values = arrays.get(name, meta.get(name))
        if isinstance(values, Mapping):
            values = list(values)
        if isinstance(values, str):
            values = [values]
        if values is not None and np.ndim(values) == 1 and len(values):
            return sorted({str(value) for value in np.asarray(values).tolist()})
    return []
