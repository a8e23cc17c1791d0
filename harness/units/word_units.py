"""Words that a model reads for their surprisal alone -> columns of bits (`harness surprisal`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.checkpoints import checkpoints
from harness.checkpoints.checkpoints import Checkpoint
from harness.extraction import backends, parity, surprisal
from harness.extraction.backends import Model
from harness.models import precision
from harness.protocol import AskedBackend, AskedDtype, Dtype, Protocol
from harness.text.word_files import AS_FOUND, TextOptions
from harness.units import corpora
from harness.units.corpora import Shard


class WordSurprisals(NamedTuple):
    """Of the words of a shard: columns of the table `word_surprisals`, and how they were read, for the manifest."""

    columns: dict[str, Any]
    facts: dict[str, Any]


def read(model: Model, shard: Shard, how: Protocol) -> WordSurprisals:
    """What a model expected of each word of a shard.

    Raises:
        ValueError: as the extraction; parity.ParityError where a plain forward says otherwise.
    """
    encoded = [model.reader.encode(context) for context in shard.contexts()]
    found = model.extract(encoded, how, states=False, log_probabilities=True)
    facts = {**found.facts, **parity.check(model, encoded, found, how), "backend": model.backend}
    assert found.predictions is not None  # noqa: S101 - asked for
    alone = model.reader.is_encoder_decoder and how.decoder_reads == "stimulus"
    words = surprisal.per_word(encoded, found.predictions, model.reader.openings, alone=alone)
    passages, sentences, ids, texts = zip(*shard.own(), strict=True)
    if words.word_ids != ids:
        raise ValueError("surprisal: the words that were read are not those of the shard.")  # never seen
    space_bits = words.space_bits if shard.joiner == " " else np.full(len(ids), np.nan)  # no space ends the words
    columns = {
        "story": passages, "sentence": sentences, "word_id": ids, "word": texts, "surprisal_bits": words.bits,
        "corrected_bits": words.bits + space_bits, "n_tokens": words.n_tokens,
        "entropy_bits": words.entropy_bits, "rank": words.ranks,
    }  # fmt: skip
    return WordSurprisals(columns, facts)


def _of_model(name: str, model: Model, shard: Shard, how: Protocol) -> WordSurprisals:
    """As `read`, its errors with the name of the model."""
    try:
        return read(model, shard, how)
    except parity.ParityError:
        raise
    except ValueError as error:
        said = str(error)
        raise ValueError(said if said.startswith(f"{name}: ") else f"{name}: {said}") from error


def context_in_words(checkpoint: Checkpoint, how: Protocol) -> str:
    """The column `context`: what is read before a word, and of T5 by which of its two readings."""
    if checkpoint.stack != "encoder-decoder":
        return how.context
    return f"{how.context}, {'in the encoder' if how.decoder_reads == 'stimulus' else 'by the decoder alone'}"


def readings_of(checkpoint: Checkpoint, how: Protocol, t5_reads: str) -> list[Protocol]:
    """How a model reads: of T5 one or both of its readings, of a decoder its only one.

    Raises:
        ValueError: if it is an encoder.
    """
    if checkpoint.stack == "encoder":
        raise ValueError(f"{checkpoint.name} is an encoder, which gives no probabilities; give a decoder or a T5.")
    if checkpoint.stack != "encoder-decoder":
        return [how]
    ways = {"text": ("text",), "context": ("stimulus",), "both": ("text", "stimulus")}[t5_reads]
    return [replace(how, decoder_reads=way) for way in ways]  # type: ignore[arg-type]


def resolve(
    name: str, asked: AskedDtype, known_as: str = "", *, allow_pickle: bool = False
) -> tuple[Checkpoint, Dtype]:  # fmt: skip
    """A checkpoint with its weights here, and the precision in which it is read."""
    found = checkpoints.with_weights(checkpoints.resolve(name, known_as, allow_pickle=allow_pickle), allow_pickle)
    return found, precision.dtype_of(found.family, found.stack, found.n_parameters, asked)


def surprisals(
    sources: Sequence[str],
    names: Sequence[str],
    how: Protocol,
    *,
    t5_reads: str = "text",
    dtype: AskedDtype = "auto",
    backend: AskedBackend = "auto",
    device: str = "cpu",
    data_root: str | None = None,
    allow_pickle: bool = False,
    options: TextOptions = AS_FOUND,
    progress: Callable[[str, int], None] | None = None,
    remarked: Callable[[str, str], None] | None = None,
) -> Iterator[pd.DataFrame]:
    """Surprisal of each word of some corpora under some models, in this process, shard by shard.

    Args:
        sources: see `corpora.put`.
        names: of the table, Hub ids or folders.
        how: context, window, overlap and BOS.
        t5_reads: "text", "context" (in the encoder) or "both".
        dtype: of all models, or "auto".
        backend: likewise.
        device: "cpu" or "cuda".
        data_root: where data sets lie.
        allow_pickle: whether pickled weights are loaded.
        options: what the user says of the texts.
        progress: is told the model and how many words it has read, after each shard.
        remarked: gets the model and each sentence on how it reads a text (`Checkpoint.notes`).

    Yields:
        One row per model and word: corpus, model, revision, dtype, context and the columns of `read`.

    Raises:
        ValueError: if a model cannot be loaded or a corpus not read; what was yielded before stands.
    """
    for source in sources:  # whatever is wrong with a text is said before a model is loaded
        corpora.check(source, data_root, options)
    for name in names:
        checkpoints.require_known(name)
    for name, known_as in checkpoints.names_of(dict.fromkeys(names)).items():
        checkpoint, precise = resolve(name, dtype, known_as, allow_pickle=allow_pickle)
        if remarked:
            for note in checkpoint.notes:
                remarked(checkpoint.name, note)
        readings = readings_of(checkpoint, how, t5_reads)
        library, _ = backends.choose(checkpoint, backend, device, precise, states=False)
        model = backends.load(library, checkpoint, device, precise, allow_pickle=allow_pickle)
        for source in sources:
            for reading in readings:
                origin = {
                    "corpus": corpora.name_of(source), "model": checkpoint.name, "revision": checkpoint.revision,
                    "dtype": precise, "context": context_in_words(checkpoint, reading),
                }  # fmt: skip
                for shard in corpora.shards_of(source, how.context, data_root, options):
                    columns, facts = _of_model(checkpoint.name, model, shard, reading)
                    stated = origin | {"dtype": facts.get("dtype", precise)}
                    yield pd.DataFrame({**dict.fromkeys(stated), **columns}).assign(**stated)
                    if progress:
                        progress(checkpoint.name, len(columns["word"]))
        model.close()
