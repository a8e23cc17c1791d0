"""The first unit of work, without Ray: what a model gives for a text, and what all units are made of.

A unit is what is computed, stored and resumed as a whole: the features of (model, stimuli, context) and the scores of
(model or control, data set, protocol). Each knows its key, the hash of everything that decides its content.
"""

from __future__ import annotations

import json
import platform
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from harness.checkpoints.checkpoints import Checkpoint
from harness.extraction import surprisal
from harness.protocol import Dtype, Protocol, content_hash
from harness.records import Features, Layer, LazyMapping, Stimuli, Surprisals
from harness.storage.origin import FEATURES_VERSION, code_version, libraries
from harness.storage.store import Store
from harness.text import contexts

if TYPE_CHECKING:
    from harness.extraction.backends import Model

# What is stored of each word, by its name in `Surprisals`.
WORD_ARRAYS = ("bits", "n_tokens", "space_bits", "entropy_bits", "ranks", "n_first")


@dataclass(frozen=True)
class FeatureSource:
    """Where features come from: a model, a variant of it, or a control.

    kind: of a model's variants "untrained" has weights drawn anew, "shuffled" reads the words of a stimulus in another
    order, "chat" reads the text as a user's turn in the model's chat template. revision: of the checkpoint, or of the
    content of the `file` that a control needs; "" where there is neither. seed: of random weights, order or features.
    """

    name: str
    kind: Literal["model", "untrained", "shuffled", "chat", "control"]
    revision: str
    seed: int
    checkpoint: Checkpoint | None = None
    file: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its features; the name of a model does not."""
        if self.checkpoint is None:
            return {"control": self.name, "seed": self.seed, "revision": self.revision}
        reading = {"reading": self.checkpoint.reading} if self.checkpoint.reading else {}
        if self.kind == "untrained":  # the twins of a base and of its tuned version are one network
            return {"architecture": self.checkpoint.architecture, "seed": self.seed, **reading}
        varied: dict[str, dict[str, Any]] = {"shuffled": {"order": self.seed}, "chat": {"template": True}}
        return {"revision": self.revision, **varied.get(self.kind, {}), **reading}

    def context_of(self, protocol: Protocol) -> str:
        """What it reads under a protocol, in words."""
        varied = {"shuffled": ", words shuffled", "chat": ", chat template"}
        return protocol.context + varied.get(self.kind, "")


# --- features ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureUnit:
    """Hidden states and surprisals of one model on one text, in one pass, read as the protocol says."""

    source: FeatureSource
    stimuli: Stimuli
    protocol: Protocol
    states: bool
    surprisals: bool
    dtype: Dtype = "float32"

    @cached_property
    def key(self) -> str:
        """Hash of model, text, what the protocol says of reading it, and what is kept."""
        text = content_hash([self.stimuli.ids, self.stimuli.texts, self.stimuli.passages])
        names = ["context", "context_words", "pooling", "window", "overlap", "bos"]
        if self.source.checkpoint and self.source.checkpoint.is_encoder_decoder:
            names.append("decoder_reads")
        how = {name: getattr(self.protocol, name) for name in names}
        kept = {"states": self.states, "surprisals": self.surprisals, "dtype": self.dtype}
        return content_hash({"schema": FEATURES_VERSION, **self.source.identity, **how, **kept, "text": text})[:32]

    def run(self, model: Model, store: Store) -> None:
        """Read the text and store what it gives under this unit's key."""
        from safetensors.numpy import save_file

        from harness.extraction.parity import check

        how = self.protocol
        shown = contexts.shuffled(self.stimuli, self.source.seed) if self.source.kind == "shuffled" else self.stimuli
        texts = contexts.build(shown, how.context, how.context_words)
        read = [model.reader.encode(part, in_chat=self.source.kind == "chat") for part in texts]
        found = model.extract(read, how, states=self.states, log_probabilities=self.surprisals)
        parity = check(model, read, found, how)
        arrays: dict[str, Any] = (
            {str(layer): matrix for layer, matrix in found.features.values.items()} if found.features else {}
        )
        if found.predictions is not None:
            alone = how.decoder_reads == "stimulus" and model.reader.is_encoder_decoder
            words = surprisal.per_word(read, found.predictions, model.reader.openings, alone=alone)
            arrays |= {name: getattr(words, name) for name in WORD_ARRAYS}
        facts = {
            "schema": FEATURES_VERSION, "model": self.source.name, "context": how.context, "backend": model.backend,
            "dtype": self.dtype, "n_tokens": sum(len(part.ids) for part in read), "host": platform.node(),
            "code_version": code_version(), "libraries": libraries(), **found.facts, **parity,
        }  # fmt: skip
        metadata = {"row_ids": json.dumps([i for part in read for i in part.stimulus_ids])}
        store.put(
            "features", self.key, lambda folder: save_file(arrays, folder / "features.safetensors", metadata), facts
        )


def stored_features(unit: FeatureUnit, store: Store) -> tuple[Features | None, Surprisals | None]:
    """What a finished feature unit holds, under the row ids that were stored with it.

    A layer is read when it is asked for. The file, or the copy of a remote's, is kept while something refers to them.
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


def _layer(key: str) -> Layer:
    stack, index = key.split(".")
    return Layer(stack, int(index))
