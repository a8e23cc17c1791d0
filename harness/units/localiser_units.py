"""The localiser of a model as a unit of work: t of every unit, from which any number of units is chosen.

Units are chosen from the contrast texts alone, never from brain data. The chosen units of all layers are concatenated
and scored as one layer, in place of whole layers.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from harness.checkpoints.checkpoints import Checkpoint
from harness.extraction.backends import Model
from harness.protocol import Dtype, Protocol, content_hash
from harness.records import Features, Floats, Integers, Layer
from harness.storage.origin import LOCALISERS_VERSION, code_version, libraries
from harness.storage.store import Store
from harness.text.localiser_texts import Contrast
from harness.units.feature_units import FeatureSource
from harness.variants import UnitCount

# The one layer of chosen units.
UNITS = Layer("units", 0)


@dataclass(frozen=True)
class LocaliserUnit:
    """Welch's t of every unit of a network between sentences and non-words.

    Attributes:
        source: the model, or its untrained control.
        contrast: the texts.
        protocol: encoding, BOS and what the decoder of T5 reads.
        dtype: precision of the model.
    """

    source: FeatureSource
    contrast: Contrast
    protocol: Protocol
    dtype: Dtype = "float32"
    stored_as: ClassVar[str] = "localisers"
    states: ClassVar[bool] = True

    @property
    def checkpoint(self) -> Checkpoint:
        """The model."""
        assert self.source.checkpoint is not None  # noqa: S101 - controls have no units
        return self.source.checkpoint

    @property
    def seed(self) -> int | None:
        """Seed of random weights; None for the trained ones."""
        return self.source.seed if self.source.kind == "untrained" else None

    @property
    def stimuli(self) -> tuple[str, ...]:
        """The texts."""
        return self.contrast.texts

    @cached_property
    def settings(self) -> Protocol:
        """How texts are read: each alone, pooled at its last token."""
        encoding = self.protocol.encoding if self.checkpoint.stack == "decoder" else "shared"
        return replace(self.protocol, context="none", context_words=0, pooling="last", encoding=encoding)

    @cached_property
    def key(self) -> str:
        """Hash of model, texts and settings."""
        settings = self.settings
        how: dict[str, Any] = {"window": settings.window, "bos": settings.bos != "none", "encoding": settings.encoding}
        if self.checkpoint.is_encoder_decoder:
            how["decoder_reads"] = settings.decoder_reads
        made_of = {"schema": LOCALISERS_VERSION, **self.source.identity, **how, "dtype": self.dtype}
        return content_hash({**made_of, "contrast": self.contrast.hash})[:32]

    def run(self, model: Model, store: Store) -> None:
        """Compute t of every unit and store it under this unit's key.

        Raises:
            ParityError: if a plain forward pass of transformers gives different states.
        """
        from safetensors.numpy import save_file

        from harness.extraction.localiser import localise

        t_by_layer, facts = localise(model, self.contrast, self.settings)
        arrays = {str(layer): t for layer, t in t_by_layer.items()}
        described = {
            "schema": LOCALISERS_VERSION, "model": self.source.name, "context": "none", "dtype": self.dtype,
            "contrast": self.contrast.name, "contrast_hash": self.contrast.hash, "host": platform.node(),
            "code_version": code_version(), "libraries": libraries(), **facts,
        }  # fmt: skip
        store.put(self.stored_as, self.key, lambda folder: save_file(arrays, folder / "t.safetensors"), described)


def stored_t(unit: LocaliserUnit, store: Store) -> dict[Layer, Floats]:
    """Load layer -> (unit,) t of a finished localiser, layers in order."""
    from safetensors.numpy import load_file

    with store.open(unit.stored_as, unit.key) as folder:
        arrays = load_file(folder / "t.safetensors")
    layers = {Layer(stack, int(index)): t for (stack, index), t in ((key.split("."), t) for key, t in arrays.items())}
    return {layer: layers[layer] for layer in sorted(layers)}


def choose(t_by_layer: dict[Layer, Floats], count: UnitCount, draw_seed: int | None = None) -> dict[Layer, Integers]:
    """Choose the units with the largest t over all layers, or as many random ones of the others.

    Args:
        t_by_layer: layer -> (unit,) t.
        count: how many; a percentage is of all units of these layers.
        draw_seed: None for the units with the largest t; a seed for random units, drawn without replacement from those
            that are not among them.

    Returns:
        Layer -> (chosen,) ascending indices, exactly as many as asked for; layers without a chosen unit are left out.
        Of units with equal t the first by layer and index is chosen. A unit without a t (NaN) is never localised.

    Raises:
        ValueError: if there are not enough units.
    """
    t = np.concatenate(list(t_by_layer.values()))
    n, measurable = count.of(len(t)), np.flatnonzero(~np.isnan(t))
    if n > len(measurable):
        raise ValueError(f"{n} units are to be localised, but the model has {len(measurable)} with a t; ask for fewer.")
    chosen = measurable[np.argsort(-t[measurable], kind="stable")[:n]]
    if draw_seed is not None:
        others = np.setdiff1d(np.arange(len(t)), chosen)
        if n > len(others):
            raise ValueError(
                f"{n} random units are wanted, but only {len(others)} are not localised; localise at most half of all."
            )
        chosen = np.random.default_rng(draw_seed).choice(others, n, replace=False)
    chosen.sort()
    ends = np.cumsum([len(values) for values in t_by_layer.values()])
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    starts = [0, *ends[:-1].tolist()]
    return {
        layer: part - start for layer, part, start in zip(t_by_layer, parts, starts, strict=True) if len(part)
    }  # fmt: skip


def of_units(features: Features, chosen: dict[Layer, Integers]) -> Features:
    """The chosen units of all layers, concatenated in the order of the layers, as the one layer `UNITS`.

    Layers are loaded one at a time.
    """
    columns = [features.values[layer][:, units] for layer, units in chosen.items()]
    return Features({UNITS: np.concatenate(columns, axis=1)}, features.row_ids)


def as_arrays(t_by_layer: dict[Layer, Floats], chosen: dict[Layer, Integers]) -> dict[str, Any]:
    """The chosen units in columns of (unit,), in the order of the features: stack, layer, index in the layer, and t."""
    sizes = [len(units) for units in chosen.values()]
    return {
        "stack": np.repeat([layer.stack for layer in chosen], sizes),
        "layer": np.repeat([layer.index for layer in chosen], sizes),
        "unit": np.concatenate(list(chosen.values())),
        "t": np.concatenate([t_by_layer[layer][units] for layer, units in chosen.items()]),
    }
