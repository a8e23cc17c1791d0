"""Check extracted features: process a few stimuli again with a plain transformers forward, without batches or hooks.

transformers' own hidden states for a batch of one are the reference. If a difference is larger than rounding, nothing
is stored; the largest difference is recorded in the unit's manifest and in the table `extractions`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.extraction.backends import Model
from harness.loading.blocks import blocks_of, body, call
from harness.loading.loaded_model import LoadedModel
from harness.protocol import Dtype, Protocol
from harness.records import Extraction, Floats, Integers, Layer, Predictions, Tokens
from harness.text.tokens import Window, cut, prefix_of, source_of

# Number of stimuli to compare.
N_STIMULI = 4


@dataclass(frozen=True)
class ParityTolerance:
    """Largest difference that counts as rounding.

    Attributes:
        states: as a fraction of a layer's largest absolute state.
        nats: of a token's log-probability.
    """

    states: float
    nats: float


# float32: sums in another order. In lower precisions the batch size alone changes results: 1 % in the last layer.
TOLERANCES: dict[Dtype, ParityTolerance] = {
    "float32": ParityTolerance(1e-4, 1e-3),
    "bfloat16": ParityTolerance(0.1, 0.5),
    "float16": ParityTolerance(0.02, 0.1),
    "int8": ParityTolerance(0.2, 1.0),
}


class ParityError(ValueError):
    """Extracted features differ from a plain forward by more than rounding."""


def check(model: Model, tokens: Sequence[Tokens], extraction: Extraction, protocol: Protocol) -> Mapping[str, Any]:
    """Compare some stimuli, from short to long contexts, with a plain forward of each.

    Args:
        model: the model that made the extraction. Only transformers has a plain forward; others are not compared.
        tokens: one per context.
        extraction: features and predictions of these contexts.
        protocol: the protocol of the extraction.

    Returns:
        parity_states: largest difference of states, as a fraction of a layer's largest; parity_nats: largest difference
        of a log-probability; both None if nothing could be compared. parity_stimuli: number of stimuli compared (those
        that fit into memory). parity_s: seconds taken.

    Raises:
        ParityError: if they differ by more than rounding.
    """
    if model.backend != "transformers":
        return {"parity_states": None, "parity_nats": None, "parity_stimuli": 0, "parity_s": 0.0}
    loaded, started = model.loaded, time.perf_counter()
    state_differences: list[float | None] = []
    nat_differences: list[float | None] = []
    n_compared = 0
    for context, stimulus in _sample(tokens):
        place = _Place(loaded, tokens[context], protocol, stimulus)
        with suppress(torch.OutOfMemoryError):  # all states of a long text at once take more memory than a batch
            if extraction.features:
                row = sum(len(context_tokens.stimulus_ids) for context_tokens in tokens[:context]) + stimulus
                state_differences.append(_state_difference(place, extraction.features.values, row))
            if extraction.predictions:
                nat_differences.append(_nat_difference(place, extraction.predictions[context]))
            n_compared += 1
    worst_states, worst_nats = (
        max((difference for difference in differences if difference is not None), default=None)
        for differences in (state_differences, nat_differences)
    )
    tolerance = TOLERANCES[loaded.dtype]
    _require_rounding(loaded, "states", worst_states, tolerance.states)
    _require_rounding(loaded, "log-probabilities", worst_nats, tolerance.nats)
    return {
        "parity_states": worst_states, "parity_nats": worst_nats, "parity_stimuli": n_compared,
        "parity_s": time.perf_counter() - started,
    }  # fmt: skip


def _require_rounding(loaded: LoadedModel, quantity: str, difference: float | None, tolerance: float) -> None:
    if difference is not None and not difference <= tolerance:
        raise ParityError(
            f"{loaded.model.config.model_type} in {loaded.dtype}: {quantity} extracted in batches differ by "
            f"{difference:.1e} from those of a single text; at most {tolerance:.0e} is rounding. Nothing is stored, "
            "because this combination of model, library and device is not reproducible; try float32, or another "
            "version of the library."
        )


def _sample(tokens: Sequence[Tokens]) -> list[tuple[int, int]]:
    """(context, stimulus) with the shortest and longest prefixes and some between; one retokenised stimulus first."""
    places = [
        (int(last), context, stimulus)
        for context, context_tokens in enumerate(tokens)
        for stimulus, last in enumerate(context_tokens.last)
    ]
    usable = sorted(place for place in places if place[0] >= 0)
    own_pass = [(context, stimulus) for context, encoded in enumerate(tokens) for stimulus in encoded.retokenised]
    indices = sorted({round(x) for x in np.linspace(0, len(usable) - 1, N_STIMULI)}) if usable else []
    return list(dict.fromkeys([*own_pass[:1], *(usable[index][1:] for index in indices)]))


@dataclass(frozen=True)
class _Place:
    """A stimulus to compare: the model, the tokens of its context, the protocol of the extraction, and its index."""

    loaded: LoadedModel
    tokens: Tokens
    protocol: Protocol
    stimulus: int

    @property
    def limit(self) -> int:
        """Maximum tokens of a window."""
        return min(self.protocol.window, self.loaded.limit)

    def windows(self) -> list[Window]:
        """The windows of the context."""
        loaded, protocol = self.loaded, self.protocol
        bos = protocol.bos if loaded.stack == "decoder" else "window"
        return cut([self.tokens], self.limit, loaded.prefix, protocol.overlap, protocol.pooling, bos)

    def to_decoder(self) -> tuple[Integers, Integers]:
        """Ids of a window up to the stimulus that it answers for, and the stimulus's positions in them."""
        window = next(window for window in self.windows() if self.stimulus in window.rows)
        positions = window.at[window.rows == self.stimulus]
        return window.ids[: positions[-1] + 1], positions

    def source(self, stimulus: int) -> tuple[Integers, Integers]:
        """Ids that the encoder reads up to a stimulus, and the stimulus's positions in them."""
        before, (prefix, own) = self.loaded.before_source, prefix_of(self.tokens, stimulus)
        text, n_dropped = source_of(self.tokens, prefix, self.limit - len(before) - len(self.loaded.suffix))
        return _around(self.loaded, text), own[own >= self.tokens.n_prompt + n_dropped] - n_dropped + len(before)


def _around(loaded: LoadedModel, text: Sequence[int] | Integers = ()) -> Integers:
    """Ids of the encoder's input for a text, by default an empty one."""
    return np.array([*loaded.before_source, *text, *loaded.suffix], dtype=np.int64)


# --- hidden states ----------------------------------------------------------------------------------------------------


def _state_difference(place: _Place, features: Mapping[Layer, Floats], row: int) -> float | None:
    """The largest difference over layers, as a fraction of each layer's largest absolute state."""
    differences, pooling = [], place.protocol.pooling
    for stack, (layer_states, positions) in _plain_states(place).items():
        ours = [features[layer][row] for layer in features if layer.stack == stack]
        plain = [(_pooled(states[positions], pooling), np.abs(states).max()) for states in layer_states]
        differences.append(_smallest_difference(ours, plain))
    return max(differences, default=None)


def _smallest_difference(ours: Sequence[Floats], plain: Sequence[tuple[Floats, float]]) -> float:
    """The largest difference over layers, under the alignment of layers that makes it smallest.

    transformers returns our layers except the last, from layer 0 on; for recurrent families (Mamba, RWKV) from layer 1
    on. If a family returns further states (Funnel, between its parts), our layers must occur among them in order.
    """
    distances = np.array([[_distance(own, *state) for state in plain] for own in ours])
    if len(plain) == len(ours) - 1:
        return float(min(distances.diagonal().max(), distances.diagonal(-1).max()))
    worst = np.zeros(len(plain) + 1)  # over the layers so far, by the number of transformers' states used
    for row in distances[:-1]:
        worst = np.append(np.inf, np.minimum.accumulate(np.maximum(worst[:-1], row)))
    return float(worst[-1])


def _distance(own: Floats, state: Floats, scale: float) -> float:
    return float(np.abs(own - state).max()) / (float(scale) or 1.0) if own.shape == state.shape else np.inf


def _pooled(states: Floats, pooling: str) -> Floats:
    if pooling == "last":
        return np.asarray(states[-1])
    return np.asarray(states.mean(axis=0) if pooling == "mean" else states.sum(axis=0))


def _plain_states(place: _Place) -> dict[str, tuple[list[Floats], Integers]]:
    """Stack -> (token, hidden) states of each layer, and the stimulus's positions.

    The last layer is left out, because transformers applies the final norm to it.
    """
    loaded, decoder_reads = place.loaded, place.protocol.decoder_reads
    if loaded.stack == "decoder":
        ids, positions = place.to_decoder()
        return {"decoder": (_hidden(loaded, "decoder", ids), positions)}
    source, positions = place.source(place.stimulus)
    if loaded.stack == "encoder":
        return {"encoder": (_hidden(loaded, "encoder", source), positions)}
    start = np.asarray(loaded.prefix)
    encoder_states = _hidden(loaded, "encoder", source, start)
    if decoder_reads == "nothing":
        decoder_source, decoder_ids, decoder_positions = source, start, np.array([len(start) - 1])
    elif decoder_reads == "text":
        decoder_source, (decoder_ids, decoder_positions) = _around(loaded), place.to_decoder()
    else:
        decoder_source, (prefix, own) = place.source(place.stimulus - 1)[0], prefix_of(place.tokens, place.stimulus)
        decoder_ids = np.concatenate([start, prefix[own][-(place.limit - len(start)) :]])
        decoder_positions = np.arange(len(start), len(decoder_ids))
    decoder_states = _hidden(loaded, "decoder", decoder_source, decoder_ids)
    return {"encoder": (encoder_states, positions), "decoder": (decoder_states, decoder_positions)}


def _hidden(loaded: LoadedModel, stack: str, ids: Integers, decoder_ids: Integers | None = None) -> list[Floats]:
    """Run transformers alone; gives the (token, hidden) states of each layer of a stack but the last."""
    model, to_states = loaded.model, blocks_of(loaded.model, stack).to_states
    inputs = {"input_ids": ids} | ({} if decoder_ids is None else {"decoder_input_ids": decoder_ids})
    batch = _batch(inputs, loaded.device)
    name = f"{stack}_hidden_states" if loaded.is_encoder_decoder else "hidden_states"
    with torch.inference_mode():
        module = model if loaded.is_encoder_decoder else body(model)
        states = call(module, **batch, output_hidden_states=True, use_cache=False)[name][:-1]
    n_tokens = len(ids if decoder_ids is None or stack == "encoder" else decoder_ids)
    # Families with several residual streams have more dimensions. Some pad a text to whole blocks of tokens (LED). A
    # family that pools tokens (Funnel) also returns shorter states, which are skipped.
    layer_states = [to_states(state) if state.dim() > 3 else state for state in states]
    return [state[0, :n_tokens].float().cpu().numpy() for state in layer_states if state.shape[1] >= n_tokens]


def _batch(inputs: Mapping[str, Integers], device: torch.device) -> dict[str, torch.Tensor]:
    """A batch of one, with masks: without them some families take a start token equal to the pad token for padding."""
    ids = {name: torch.from_numpy(np.ascontiguousarray(row))[None].to(device) for name, row in inputs.items()}
    masks = {name.replace("input_ids", "attention_mask"): torch.ones_like(tensor) for name, tensor in ids.items()}
    return ids | masks


# --- log-probabilities ------------------------------------------------------------------------------------------------


def _nat_difference(place: _Place, predictions: Predictions) -> float | None:
    """The largest difference over a stimulus's tokens in the window that answers for its last one."""
    loaded, tokens, stimulus = place.loaded, place.tokens, place.stimulus
    last = int(tokens.last[stimulus])
    if last < 0:
        return None
    if loaded.is_encoder_decoder and place.protocol.decoder_reads == "stimulus":
        if stimulus not in predictions.retokenised:
            return None
        ids, own = prefix_of(tokens, stimulus)
        source = place.source(stimulus - 1)[0]
        logs = _log_probabilities(loaded, np.concatenate([np.asarray(loaded.prefix), ids[own]]), source)
        own_logs = predictions.retokenised[stimulus].log_probabilities
        return float(np.abs(own_logs - logs[len(loaded.prefix) - 1 :]).max())
    windows = place.windows()
    if stimulus in tokens.retokenised:
        window = next(window for window in windows if window.retokenised == stimulus)
        logs = _log_probabilities(loaded, window.ids)
        own = np.arange(max(window.first, window.start), window.start + len(window.ids) - window.n_prefix)
        extracted = predictions.retokenised[stimulus].log_probabilities[own - window.first]
    else:
        window = next(
            window for window in windows
            if window.retokenised < 0 and window.first <= last < window.start + len(window.ids) - window.n_prefix
        )  # fmt: skip
        logs = _log_probabilities(loaded, window.ids[: last - window.start + window.n_prefix + 1])
        own = np.flatnonzero(tokens.owners == stimulus)
        own = own[own >= window.first]
        extracted = predictions.log_probabilities[own]
    before = own - window.start + window.n_prefix - 1
    has_before = before >= 0  # a first token without BOS has no prediction
    differences = np.abs(extracted[has_before] - logs[before[has_before]])
    return float(differences.max()) if len(differences) else None


def _log_probabilities(loaded: LoadedModel, ids: Integers, source: Integers | None = None) -> Floats:
    """(token - 1,) nats of each token except the first; an encoder-decoder reads `source`, by default an empty text."""
    inputs = {"input_ids": ids}
    if loaded.is_encoder_decoder:
        inputs = {"input_ids": _around(loaded) if source is None else source, "decoder_input_ids": ids}
    batch = _batch(inputs, loaded.device)
    next_ids = torch.from_numpy(np.ascontiguousarray(ids[1:]))[:, None]
    with torch.inference_mode():
        logits = call(loaded.model, **batch, use_cache=False).logits[0, :-1].float()
    logs: Floats = logits.log_softmax(-1).gather(-1, next_ids.to(logits.device))[:, 0].double().cpu().numpy()
    return logs
