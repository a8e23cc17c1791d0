"""Features of one model for one text, without Ray, and the definition of a feature source.

A unit is computed, stored and resumed as a whole: features of (model, stimuli, context), scores of (model or control,
data set, protocol). Its key is a hash of everything that determines its content.
"""

from __future__ import annotations

import json
import platform
import weakref
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.checkpoints.checkpoints import Checkpoint
from harness.protocol import Dtype, Protocol, content_hash
from harness.records import Features, Layer, LazyMapping, Stimuli, Surprisals
from harness.storage.origin import FEATURES_VERSION, code_version, libraries
from harness.storage.store import Store
from harness.text import brainscore_texts, contexts
from harness.text.localiser_texts import Contrast
from harness.variants import Condition, UnitCount, base_name

if TYPE_CHECKING:
    from harness.extraction.backends import Model

# The stored input embeddings; without a dot, since they are no layer.
EMBEDDINGS = "embeddings"
# Stored arrays with one value per word, by their names in `Surprisals`.
WORD_ARRAYS = ("bits", "n_tokens", "space_bits", "entropy_bits", "ranks", "n_first")


@dataclass(frozen=True)
class FeatureSource:
    """Source of features: a model, a variant of it, or a control.

    Attributes:
        name: name in the tables.
        kind: "untrained" is the model with randomly initialised weights, "shuffled" gets the words of each stimulus in
            random order, "chat" gets the text as a user turn in the model's chat template, "condition" gets it after a
            prompt. "localised", "untrained localised" and "random units" are units chosen from all layers.
        revision: revision of the checkpoint, or content hash of a control's `file`; "" if there is neither.
        seed: seed of random weights, word order or features.
        checkpoint: the model's checkpoint; None for controls.
        file: path of a file that a control needs.
        condition: the prompt of kind "condition".
        n_units, contrast: of chosen units: their number, and the texts by which they are localised.
    """

    name: str
    kind: Literal[
        "model",
        "untrained",
        "shuffled",
        "chat",
        "condition",
        "localised",
        "untrained localised",
        "random units",
        "control",
    ]
    revision: str
    seed: int
    checkpoint: Checkpoint | None = None
    file: str = ""
    condition: Condition | None = None
    n_units: UnitCount | None = None
    contrast: Contrast | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the features; the name of a model is not part of it."""
        if self.checkpoint is None:
            return {"control": self.name, "seed": self.seed, "revision": self.revision}
        reading = {"reading": self.checkpoint.reading} if self.checkpoint.reading else {}
        # The untrained controls of a base and its tuned version are the same network.
        if self.kind in {"untrained", "untrained localised"}:
            return {"architecture": self.checkpoint.architecture, "seed": self.seed, **reading}
        variants: dict[str, dict[str, Any]] = {"shuffled": {"order": self.seed}, "chat": {"template": True}}
        if self.condition:
            variants["condition"] = {"prompt": [self.condition.before, self.condition.after]}
        return {"revision": self.revision, **variants.get(self.kind, {}), **reading}

    @property
    def network(self) -> FeatureSource:
        """The source whose features these are: for chosen units the model, or its untrained control."""
        if self.n_units is None:
            return self
        name = base_name(self.name)
        plain = replace(self, name=name, kind="model", n_units=None, contrast=None)
        is_untrained = self.kind == "untrained localised"
        return replace(plain, name=f"{name}:untrained", kind="untrained") if is_untrained else plain

    def context_of(self, protocol: Protocol) -> str:
        """Value of the column `context` under a protocol."""
        suffixes = {"shuffled": ", words shuffled", "chat": ", chat template"}
        if self.condition:
            suffixes["condition"] = f", prompt {self.condition.template!r}"
        return protocol.context + suffixes.get(self.kind, "")


# --- features ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureUnit:
    """Hidden states and surprisals of one model for one text, from one forward pass.

    Attributes:
        source: the model or its variant.
        stimuli: the text.
        protocol: context, pooling, windows and BOS.
        states: whether to store hidden states.
        surprisals: whether to store surprisals.
        dtype: precision of the model.
    """

    source: FeatureSource
    stimuli: Stimuli
    protocol: Protocol
    states: bool
    surprisals: bool
    dtype: Dtype = "float32"
    stored_as: ClassVar[str] = "features"

    @property
    def checkpoint(self) -> Checkpoint:
        """The model."""
        assert self.source.checkpoint is not None  # noqa: S101 - feature units always belong to a model
        return self.source.checkpoint

    @property
    def seed(self) -> int | None:
        """Seed of random weights; None for the trained ones."""
        return self.source.seed if self.source.kind == "untrained" else None

    @cached_property
    def key(self) -> str:
        """Hash of model, text, extraction settings and stored arrays."""
        text = content_hash([self.stimuli.ids, self.stimuli.texts, self.stimuli.passages])
        names = ["context", "context_words", "pooling", "window", "overlap", "bos"]
        if self.checkpoint.is_encoder_decoder:
            names.append("decoder_reads")
        how = {name: getattr(self.protocol, name) for name in names}
        if self._is_as_brainscore or self.protocol.context == "label":
            rows = None if self.stimuli.file_rows is None else self.stimuli.file_rows.tolist()
            how |= {"as_brainscore": self._is_as_brainscore, "labels": self.stimuli.labels, "file_rows": rows}
        kept = {"states": self.states, "surprisals": self.surprisals, "dtype": self.dtype}
        return content_hash({"schema": FEATURES_VERSION, **self.source.identity, **how, **kept, "text": text})[:32]

    @property
    def _is_as_brainscore(self) -> bool:
        """Whether texts are encoded as by Brain-Score, which has decoders only."""
        return self.protocol.encoding == "brainscore" and self.checkpoint.stack == "decoder"

    def run(self, model: Model, store: Store) -> None:
        """Extract features and store them under this unit's key.

        Raises:
            ParityError: if a plain forward pass of transformers gives different values (harness/extraction/parity.py).
        """
        from safetensors.numpy import save_file

        from harness.extraction.extracted_text import extract

        settings, kind = self.protocol, self.source.kind
        stimuli = contexts.shuffled(self.stimuli, self.source.seed) if kind == "shuffled" else self.stimuli
        if self._is_as_brainscore:
            texts = brainscore_texts.build(stimuli, settings.context)
        else:
            settings = replace(settings, encoding="shared")
            texts = contexts.build(stimuli, settings.context, settings.context_words)
        extracted = extract(
            model, texts, settings, states=self.states, surprisals=self.surprisals, in_chat=kind == "chat",
            condition=self.source.condition,
        )  # fmt: skip
        arrays: dict[str, Any] = (
            {str(layer): matrix for layer, matrix in extracted.features.values.items()} if extracted.features else {}
        )
        if extracted.embeddings is not None:
            arrays[EMBEDDINGS] = extracted.embeddings
        if extracted.words is not None:
            arrays |= {name: getattr(extracted.words, name) for name in WORD_ARRAYS}
        facts = {
            "schema": FEATURES_VERSION, "model": self.source.name, "dtype": self.dtype,
            "context": self.source.context_of(settings) if self.source.condition else settings.context,
            "n_tokens": extracted.n_tokens, "host": platform.node(), "code_version": code_version(),
            "libraries": libraries(), **extracted.facts,
        }  # fmt: skip
        metadata = {"row_ids": json.dumps(extracted.stimulus_ids)}
        store.put(
            self.stored_as, self.key, lambda folder: save_file(arrays, folder / "features.safetensors", metadata), facts
        )


def stored_features(unit: FeatureUnit, store: Store) -> tuple[Features | None, Surprisals | None]:
    """Load the features and surprisals of a finished unit, with the row ids stored with them.

    Layers are loaded from the file on access. The file (for a remote store, its local copy) stays open as long as the
    features are referenced.
    """
    from safetensors import safe_open

    with ExitStack() as stack:
        folder = stack.enter_context(store.open("features", unit.key))
        file = stack.enter_context(safe_open(folder / "features.safetensors", "numpy"))
        ids = tuple(json.loads(file.metadata()["row_ids"]))
        words = None
        if unit.surprisals:
            words = Surprisals(ids, *(file.get_tensor(name) for name in WORD_ARRAYS))
        if not unit.states:
            return None, words
        keys = sorted((_layer(key), key) for key in file.keys() if "." in key)  # noqa: SIM118 - not a mapping
        shapes = {layer: tuple(file.get_slice(key).get_shape()) for layer, key in keys}
        layers = LazyMapping(shapes, lambda layer: file.get_tensor(str(layer)))
        weakref.finalize(layers, stack.pop_all().close)
    return Features(layers, ids), words


def stored_embeddings(unit: FeatureUnit, store: Store) -> Features | None:
    """Load the input embeddings of a finished unit, averaged over each stimulus; None if it has none (vLLM).

    They are a control, never a candidate for a model's layer.
    """
    from safetensors import safe_open

    with store.open("features", unit.key) as folder, safe_open(folder / "features.safetensors", "numpy") as file:
        if EMBEDDINGS not in file.keys():  # noqa: SIM118 - not a mapping
            return None
        ids = tuple(json.loads(file.metadata()["row_ids"]))
        return Features({Layer(EMBEDDINGS, 0): file.get_tensor(EMBEDDINGS)}, ids)


def _layer(key: str) -> Layer:
    stack, index = key.split(".")
    return Layer(stack, int(index))
