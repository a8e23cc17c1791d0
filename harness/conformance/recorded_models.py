"""Recorded models: hidden states at the last token of each part of a text, and the surprisal of the part.

Brain-Score tokenises with the tokenizer's defaults, so whether BOS stands before a text depends on the model. It is
taken from the recorded tokens, or from the tokenizer where no tokens are recorded. Parts beyond the model's window are
not compared. In the result `max_dr` is the largest difference of a hidden state, `max_dscore` that of a surprisal in
bits.

Source: brain-score/language at 0e0bb4a2 (August 2026), `HuggingfaceSubject`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.conformance.rows import words
from harness.conformance.vectors import DamagedError, NotRunError, Vectors
from harness.conformance.verdicts import Result, Tolerance, largest
from harness.records import Context, ExtractionSettings, Floats, Layer, Tokens

if TYPE_CHECKING:
    from harness.loading.loaded_model import LoadedModel

# For hidden states of order 1 and surprisal of order 10 bits, both computed in float32.
_FLOAT32 = Tolerance(r=1e-4, score=1e-4)
_TOKENS = ("current_tokens", "tokens", "token_ids", "input_ids")


class Parts(NamedTuple):
    """What was extracted from the parts of a text.

    Attributes:
        states: (part, layer x hidden).
        bits: (part,) surprisal; NaN where nothing precedes the part.
        inside: (part,) whether the part is inside the first window.
        tokens: the text as tokens.
    """

    states: Floats
    bits: Floats
    inside: NDArray[np.bool_]
    tokens: Tokens


def compare(vectors: Vectors, folder: Path) -> Result:
    """Compare hidden states and surprisals with those of the recorded model.

    Args:
        vectors: a case of kind "model".
        folder: contains the folder of the model.

    Raises:
        NotRunError: if the model is not there, or a layer or special token has no counterpart here.
        DamagedError: if the recorded tokens are not those of the model's tokenizer.
    """
    contexts_of = contexts_in(vectors)
    if not contexts_of or not vectors.meta.get("layers"):
        raise DamagedError("meta has no `contexts` or `texts`, or no `layers`; record the case again with them.")
    loaded = _with_recorded_prefix(_load(vectors, folder), vectors)
    blocks = [_block(name) for name in vectors.meta["layers"]]
    states, bits, n_compared, n_beyond, n_other_tokens = [0.0], [0.0], 0, 0, 0
    for text, contexts in contexts_of.items():
        parts = _extract(loaded, contexts, blocks)
        neural, surprisal = (vectors.arrays.get(f"{text}__{name}") for name in ("neural", "surprisal_bits"))
        if neural is not None:
            states.append(np.abs(parts.states - neural)[parts.inside].max(initial=0.0))
        if surprisal is not None:
            comparable = parts.inside & ~(np.isnan(parts.bits) & np.isnan(surprisal))
            bits.extend((parts.bits - surprisal)[comparable])
        n_compared, n_beyond = n_compared + int(parts.inside.sum()), n_beyond + int((~parts.inside).sum())
        n_other_tokens += _n_other_tokens(parts, recorded_tokens(vectors, text), loaded.prefix)
    bos = f"with {loaded.prefix} before each text" if loaded.prefix else "without BOS"
    reason = f"{n_compared} parts compared {bos}; {n_beyond} beyond the window of {loaded.limit} tokens"
    reason += f"; {n_other_tokens} parts have other tokens than recorded" if n_other_tokens else ""
    return Result(
        vectors.case, vectors.kind, "", len(contexts_of), largest(np.array(states)), largest(np.array(bits)),
        tolerance=_FLOAT32, precision="float64", reason=reason,
    ).judged()  # fmt: skip


def contexts_in(vectors: Vectors) -> dict[str, list[str]]:
    """Text -> the text up to each part: recorded, or joined from the recorded parts as Brain-Score joins them."""
    recorded = vectors.meta.get("contexts")
    if recorded:
        return dict(recorded)
    parts_of = vectors.meta.get("texts") or {}
    return {text: [_joined(parts[: k + 1]) for k in range(len(parts))] for text, parts in parts_of.items()}


def _joined(parts: Sequence[str]) -> str:
    """Parts joined by spaces, empty ones left out, without spaces before punctuation."""
    return re.sub(r"\s+([.,!?;:])", r"\1", " ".join(part for part in parts if part.strip()))


def _load(vectors: Vectors, folder: Path) -> LoadedModel:
    """Load the model that `meta` names, or the one whose name or tokens fit the case."""
    from harness.checkpoints import checkpoints
    from harness.loading.loaded_model import load

    folders = sorted(path.parent for path in folder.glob("*/config.json"))
    names = {str(vectors.meta.get(key, "")).rsplit("/", 1)[-1] for key in ("model", "model_id", "folder")}
    named = [path for path in folders if path.name in names]
    alike = [path for path in folders if set(words(path.name)) & (set(words(vectors.case)) - {"hf", "model", "tiny"})]
    candidates = next((paths for paths in (named, alike, folders) if len(paths) == 1), named or alike or folders)
    if not candidates:
        raise NotRunError("no model folder next to the vectors")
    if len(candidates) == 1:
        return load(checkpoints.resolve(str(candidates[0])))
    for candidate in candidates:
        loaded = load(checkpoints.resolve(str(candidate)))
        try:
            if _prefix(loaded, vectors) is not None:
                return loaded
        except (DamagedError, ValueError):
            continue
    raise NotRunError(f"{len(candidates)} model folders next to the vectors; name one in meta as `model`")


def _with_recorded_prefix(loaded: LoadedModel, vectors: Vectors) -> LoadedModel:
    """Put before a text what the recorded tokens have there, or else what the tokenizer adds by default."""
    prefix = _prefix(loaded, vectors)
    if prefix is None:
        first = next(iter(contexts_in(vectors).values()))[0]
        prefix = _before(loaded.tokenizer(first)["input_ids"], _ids(loaded, first), first)
    return replace(loaded, prefix=tuple(prefix))


def _prefix(loaded: LoadedModel, vectors: Vectors) -> Sequence[int] | None:
    """Ids before the first recorded text; None if no tokens are recorded."""
    for text, contexts in contexts_in(vectors).items():
        recorded = recorded_tokens(vectors, text)
        if recorded:
            return _before(recorded[0], _ids(loaded, contexts[0]), text)
    return None


def _ids(loaded: LoadedModel, text: str) -> list[int]:
    ids: list[int] = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _before(with_special: Sequence[int], ids: Sequence[int], text: str) -> list[int]:
    """The special ids before the tokens of a text.

    Raises:
        NotRunError: if special ids also follow; Brain-Score then takes the state of the last of them.
        DamagedError: if the tokens are not those of the text.
    """
    with_special, n = list(with_special), len(ids)
    for start in range(len(with_special) - n + 1):
        if with_special[start : start + n] == list(ids):
            if len(with_special) > start + n:
                raise NotRunError("special tokens follow each text, whose states Brain-Score would compare")
            return with_special[:start]
    raise DamagedError(
        f"the recorded tokens of {text!r} begin with {with_special[:8]}, the tokenizer of the model folder gives "
        f"{list(ids)[:8]}. Put the recorded model next to the vectors."
    )


def recorded_tokens(vectors: Vectors, text: str) -> list[list[int]]:
    """The recorded tokens of each part of a text, special tokens included; [] if there are none."""
    for source in _TOKENS:
        by_text: Any = vectors.meta.get(source)
        for key in (f"{text}__neural", f"{text}__reading_times", text):
            parts = by_text.get(key) if isinstance(by_text, dict) else None
            parts = vectors.arrays.get(f"{key}__{source}") if parts is None else parts
            if parts is not None and len(parts):
                return [[int(i) for i in np.ravel(part) if int(i) >= 0] for part in parts]
    return []


def _n_other_tokens(parts: Parts, recorded: list[list[int]], prefix: tuple[int, ...]) -> int:
    """Number of parts whose tokens are not the recorded ones; parts are retokenised as the text goes on."""
    if not recorded:
        return 0
    recorded = [recorded[0][len(prefix) :], *recorded[1:]]
    ours = [parts.tokens.ids[parts.tokens.owners == part].tolist() for part in range(len(parts.bits))]
    pairs = zip(ours, recorded, parts.inside, strict=False)
    return sum(inside and mine != theirs for mine, theirs, inside in pairs)


def _block(name: str) -> Layer:
    """Brain-Score's name of a block, such as "transformer.h.0", as our layer; layer 0 is the embeddings."""
    numbers = re.findall(r"\d+", name)
    if numbers:
        return Layer("decoder", int(numbers[-1]) + 1)
    if name.rsplit(".", 1)[-1] == "drop":
        return Layer("decoder", 0)
    raise NotRunError(f"layer {name!r} has no counterpart here; wanted a block, such as 'transformer.h.0'")


def _extract(loaded: LoadedModel, contexts: list[str], blocks: list[Layer]) -> Parts:
    """Extract states and surprisals of the parts of a text; each context is the one before plus a part."""
    from harness.extraction.with_transformers import extract

    ends = np.array([len(context) for context in contexts])
    spans = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
    tokens = loaded.encode(Context(contexts[-1], tuple(f"part.{k}" for k in range(len(contexts))), spans))
    extraction = extract(loaded, [tokens], ExtractionSettings(loaded.limit))
    assert extraction.features is not None and extraction.log_probabilities is not None  # noqa: S101 - by default
    states = np.hstack([extraction.features.values[block] for block in blocks])
    bits = np.full(len(contexts), np.nan)
    for part in range(len(contexts)):
        logs = extraction.log_probabilities[0][tokens.owners == part]
        logs = logs[np.isfinite(logs)]  # nothing precedes the first token
        bits[part] = -logs.sum() / np.log(2) if len(logs) else np.nan
    return Parts(states, bits, tokens.last + len(loaded.prefix) < loaded.limit, tokens)
