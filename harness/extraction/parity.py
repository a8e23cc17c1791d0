"""A few stimuli of a text that was read, read once more the plain way: alone, without batches or hooks of ours.

transformers' own hidden states of a batch of one are what everything else must agree with. What differs by more than
rounding is not stored; the largest difference stands in the unit's manifest and in the table `extractions`.
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
from harness.records import Extraction, Floats, Integers, Tokens
from harness.text.tokens import Window, cut, so_far

# How many stimuli are read again.
N_STIMULI = 4


@dataclass(frozen=True)
class ParityTolerance:
    """states: of a layer's largest number; nats: of a token's log-probability."""

    states: float
    nats: float


# float32: a sum in another order. Else the size of a batch alone changes bits: 1 % in the last layer (SCALE).
TOLERANCES: dict[Dtype, ParityTolerance] = {
    "float32": ParityTolerance(1e-4, 1e-3),
    "bfloat16": ParityTolerance(0.1, 0.5),
    "float16": ParityTolerance(0.02, 0.1),
    "int8": ParityTolerance(0.2, 1.0),
}


class ParityError(ValueError):
    """What was read is not what the model says."""


def check(model: Model, tokens: Sequence[Tokens], found: Extraction, how: Protocol) -> Mapping[str, Any]:
    """Compare some stimuli, from short to long contexts, with a plain forward of each.

    Args:
        model: as it read; another backend than transformers has no plain forward, and is not compared.
        tokens: what was read, one per context.
        found: what came of it.
        how: the protocol.

    Returns:
        parity_states: the largest difference, of a layer's largest number; parity_nats: of a log-probability;
        parity_stimuli, parity_s: how many were compared (those for which memory was enough) and how long it took. None
        where nothing could be compared.

    Raises:
        ParityError: if they differ by more than rounding does.
    """
    if model.backend != "transformers":
        return {"parity_states": None, "parity_nats": None, "parity_stimuli": 0, "parity_s": 0.0}
    reader, started = model.reader, time.perf_counter()
    chosen = _chosen(tokens)
    states: list[float | None] = []
    nats: list[float | None] = []
    n_compared = 0
    for each in chosen:
        with suppress(torch.OutOfMemoryError):  # all states of a long text at once are more than a batch takes
            if found.features:
                states.append(_states_differ(reader, tokens, found, how, *each))
            if found.predictions:
                nats.append(_nats_differ(reader, tokens, found, how, *each))
            n_compared += 1
    worst = [max((each for each in part if each is not None), default=None) for part in (states, nats)]
    allowed = TOLERANCES[reader.dtype]
    for what, differs, most in zip(("states", "log-probabilities"), worst, (allowed.states, allowed.nats), strict=True):
        if differs is not None and not differs <= most:
            raise ParityError(
                f"{reader.model.config.model_type} in {reader.dtype}: {what} read in batches differ by {differs:.1e} "
                f"from those of the text alone; {most:.0e} is rounding. Nothing is stored: this combination of model, "
                "library and device does not compute the same thing twice; try float32, or another version."
            )
    return {
        "parity_states": worst[0], "parity_nats": worst[1], "parity_stimuli": n_compared,
        "parity_s": time.perf_counter() - started,
    }  # fmt: skip


def _chosen(tokens: Sequence[Tokens]) -> list[tuple[int, int]]:
    """(context, stimulus) of those whose text so far is shortest, longest, and between; those read apart first."""
    every = [(int(last), context, k) for context, read in enumerate(tokens) for k, last in enumerate(read.last)]
    usable = sorted(each for each in every if each[0] >= 0)
    apart = [(context, k) for context, read in enumerate(tokens) for k in read.apart][:1]
    spread = sorted({round(x) for x in np.linspace(0, len(usable) - 1, N_STIMULI)}) if usable else []
    return list(dict.fromkeys([*apart, *(usable[i][1:] for i in spread)]))


def _window_of(reader: LoadedModel, tokens: Sequence[Tokens], how: Protocol, context: int, stimulus: int) -> Window:
    """The window that answers for a stimulus, of its context alone."""
    read = tokens[context]
    limit = min(how.window, reader.limit)
    made = cut([read], limit, reader.prefix, how.overlap, how.pooling, _bos(reader, how))
    return next(window for window in made if stimulus in window.rows)


def _bos(reader: LoadedModel, how: Protocol) -> str:
    return how.bos if reader.stack == "decoder" else "window"


def _states_differ(
    reader: LoadedModel, tokens: Sequence[Tokens], found: Extraction, how: Protocol, context: int, stimulus: int
) -> float | None:
    """The largest over the layers, of a layer's largest number."""
    assert found.features is not None  # noqa: S101 - asked for
    row = sum(len(read.stimulus_ids) for read in tokens[:context]) + stimulus
    differs = []
    for stack, (states, at) in _plain(reader, tokens, how, context, stimulus).items():
        ours = [found.features.values[layer][row] for layer in found.features.values if layer.stack == stack]
        differs.append(_least(ours, [(_pooled(state[at], how.pooling), np.abs(state).max()) for state in states]))
    return max(differs, default=None)


def _least(ours: Sequence[Floats], theirs: Sequence[tuple[Floats, float]]) -> float:
    """How far transformers' states are from our layers.

    Theirs are our layers but the last, from layer 0 on; of recurrent families (Mamba, RWKV) from layer 1 on. Where a
    family has states besides (Funnel, between its parts), each of our layers must be among theirs, in order.
    """
    wanted = np.array([[_distance(own, *state) for state in theirs] for own in ours])
    if len(theirs) == len(ours) - 1:
        return float(min(wanted.diagonal().max(), wanted.diagonal(-1).max()))
    worst = np.zeros(len(theirs) + 1)  # of the layers so far, by how many of theirs have been passed
    for row in wanted[:-1]:
        worst = np.append(np.inf, np.minimum.accumulate(np.maximum(worst[:-1], row)))
    return float(worst[-1])


def _distance(own: Floats, state: Floats, scale: float) -> float:
    return float(np.abs(own - state).max()) / (float(scale) or 1.0) if own.shape == state.shape else np.inf


def _pooled(states: Floats, pooling: str) -> Floats:
    if pooling == "last":
        return np.asarray(states[-1])
    return np.asarray(states.mean(axis=0) if pooling == "mean" else states.sum(axis=0))


def _plain(
    reader: LoadedModel, tokens: Sequence[Tokens], how: Protocol, context: int, stimulus: int
) -> dict[str, tuple[list[Floats], Integers]]:
    """Stack -> each layer's (token, hidden) states but the last, whose norm transformers applies; positions."""
    read = tokens[context]
    if reader.stack == "decoder":
        window = _window_of(reader, tokens, how, context, stimulus)
        at = window.at[window.rows == stimulus]
        return {"decoder": (_hidden(reader, "decoder", window.ids[: at[-1] + 1]), at)}
    limit, before = min(how.window, reader.limit), list(reader.before_source)
    text, own = so_far(read, stimulus)
    room = limit - len(before) - len(reader.suffix)
    source = np.array([*before, *text[-room:], *reader.suffix], dtype=np.int64)
    at = own[own >= len(text) - room] - max(0, len(text) - room) + len(before)
    if reader.stack == "encoder":
        return {"encoder": (_hidden(reader, "encoder", source), at)}
    start = np.asarray(reader.prefix)
    encoder = _hidden(reader, "encoder", source, start)
    if how.decoder_reads == "nothing":
        spoken, heard, of = start, source, np.array([len(start) - 1])
    elif how.decoder_reads == "text":
        window = _window_of(reader, tokens, how, context, stimulus)
        of = window.at[window.rows == stimulus]
        spoken, heard = window.ids[: of[-1] + 1], np.array([*before, *reader.suffix])
    else:
        heard = np.array([*before, *so_far(read, stimulus - 1)[0][-room:], *reader.suffix], dtype=np.int64)
        spoken = np.concatenate([start, text[own][-(limit - len(start)) :]])
        of = np.arange(len(start), len(spoken))
    return {"encoder": (encoder, at), "decoder": (_hidden(reader, "decoder", heard, spoken), of)}


def _hidden(reader: LoadedModel, stack: str, ids: Integers, decoder_ids: Integers | None = None) -> list[Floats]:
    """Transformers' own states of a stack but the last, each (token, hidden)."""
    whole, form = reader.model, blocks_of(reader.model, stack).form
    given = {"input_ids": ids} | ({} if decoder_ids is None else {"decoder_input_ids": decoder_ids})
    batch = _batch(given, reader.device)
    name = f"{stack}_hidden_states" if reader.is_encoder_decoder else "hidden_states"
    with torch.inference_mode():
        run = whole if reader.is_encoder_decoder else body(whole)
        states = call(run, **batch, output_hidden_states=True, use_cache=False)[name][:-1]
    n_tokens = len(ids if decoder_ids is None or stack == "encoder" else decoder_ids)
    # Families with several residual streams give more dimensions; some pad a text to blocks of tokens (LED); where one
    # pools a text on its way (Funnel), states of fewer than its tokens are none of theirs.
    made = [form(state) if state.dim() > 3 else state for state in states]
    return [state[0, :n_tokens].float().cpu().numpy() for state in made if state.shape[1] >= n_tokens]


def _batch(given: Mapping[str, Integers], device: torch.device) -> dict[str, torch.Tensor]:
    """A batch of one; some families take a start token that is also the padding token for padding without a mask."""
    ids = {name: torch.from_numpy(np.ascontiguousarray(part))[None].to(device) for name, part in given.items()}
    return ids | {name.replace("input_ids", "attention_mask"): torch.ones_like(part) for name, part in ids.items()}


def _nats_differ(
    reader: LoadedModel, tokens: Sequence[Tokens], found: Extraction, how: Protocol, context: int, stimulus: int
) -> float | None:
    """The largest over the stimulus's tokens that the window of its last one answers for."""
    assert found.predictions is not None  # noqa: S101 - asked for
    read, said, limit = tokens[context], found.predictions[context], min(how.window, reader.limit)
    if int(read.last[stimulus]) < 0:
        return None
    if reader.is_encoder_decoder and how.decoder_reads == "stimulus":
        if stimulus not in said.apart:
            return None
        text, (ids, at) = so_far(read, stimulus - 1)[0], so_far(read, stimulus)
        spoken = np.concatenate([np.asarray(reader.prefix), ids[at]])
        room = limit - len(reader.before_source) - len(reader.suffix)
        heard = np.array([*reader.before_source, *text[-room:], *reader.suffix], dtype=np.int64)
        logs = _log_probabilities(reader, spoken, heard)
        return float(np.abs(said.apart[stimulus].log_probabilities - logs[len(reader.prefix) - 1 :]).max())
    last = int(read.last[stimulus])
    windows = cut([read], limit, reader.prefix, how.overlap, how.pooling, _bos(reader, how))
    if stimulus in read.apart:
        window = next(each for each in windows if each.apart == stimulus)
        logs = _log_probabilities(reader, window.ids)
        own = np.arange(max(window.first, window.start), window.start + len(window.ids) - window.n_prefix)
        theirs = said.apart[stimulus].log_probabilities[own - window.first]
    else:
        whole = (each for each in windows if each.apart < 0)
        window = next(each for each in whole if each.first <= last < each.start + len(each.ids) - each.n_prefix)
        logs = _log_probabilities(reader, window.ids[: last - window.start + window.n_prefix + 1])
        own = np.flatnonzero(read.owners == stimulus)
        own = own[own >= window.first]
        theirs = said.log_probabilities[own]
    before = own - window.start + window.n_prefix - 1
    has_before = before >= 0  # nothing is expected of a first token that nothing precedes
    differs = np.abs(theirs[has_before] - logs[before[has_before]])
    return float(differs.max()) if len(differs) else None


def _log_probabilities(reader: LoadedModel, ids: Integers, heard: Integers | None = None) -> Floats:
    """(token - 1,) nats of each but the first; what T5's encoder reads is empty where nothing is given."""
    options = {"input_ids": ids}
    if reader.is_encoder_decoder:
        empty = np.array([*reader.before_source, *reader.suffix])
        options = {"input_ids": empty if heard is None else heard, "decoder_input_ids": ids}
    batch = _batch(options, reader.device)
    wanted = torch.from_numpy(np.ascontiguousarray(ids[1:]))[:, None]
    with torch.inference_mode():
        logits = call(reader.model, **batch, use_cache=False).logits[0, :-1].float()
    found: Floats = logits.log_softmax(-1).gather(-1, wanted.to(logits.device))[:, 0].double().cpu().numpy()
    return found
