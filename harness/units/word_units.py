"""Surprisal of the words of a shard, and of whole corpora in this process (`harness surprisal`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.checkpoints import checkpoints
from harness.checkpoints.checkpoints import Checkpoint
from harness.extraction import backends
from harness.extraction.backends import Model
from harness.loading import memory
from harness.models import precision
from harness.protocol import AskedBackend, AskedDtype, Dtype, Protocol
from harness.text.word_files import AS_FOUND, TextOptions
from harness.units import corpora
from harness.units.corpora import Shard


class WordSurprisals(NamedTuple):
    """Surprisals of a shard: columns of the table `word_surprisals`, and facts on the extraction for the manifest."""

    columns: dict[str, Any]
    facts: dict[str, Any]


@dataclass(frozen=True)
class WordOptions:
    """How texts are read and models run, for all corpora and models of a command.

    Attributes:
        protocol: context, window, overlap and BOS.
        t5_reads: "text", "context" or "both"; see `protocols_of`.
        dtype: precision of the models, or "auto".
        backend: library of the models, or "auto".
        device: "cpu", "cuda" or "auto".
        data_root: folder of the data sets.
        allow_pickle: whether pickled weights may be loaded.
        text: language, joiner and encoding of the texts.
    """

    protocol: Protocol
    t5_reads: str = "text"
    dtype: AskedDtype = "auto"
    backend: AskedBackend = "auto"
    device: str = "auto"
    data_root: str | None = None
    allow_pickle: bool = False
    text: TextOptions = AS_FOUND


def read(model: Model, shard: Shard, how: Protocol) -> WordSurprisals:
    """Compute surprisal, entropy and rank of each word of a shard.

    Args:
        model: loaded model.
        shard: the words.
        how: window, overlap and BOS; for T5 what the decoder gets.

    Raises:
        ValueError: if the extraction fails.
        ParityError: if a plain forward pass of transformers gives different values.
    """
    from harness.extraction.extracted_text import extract

    extracted = extract(model, shard.contexts(), how, states=False, surprisals=True)
    words = extracted.words
    assert words is not None  # noqa: S101 - surprisals=True
    passages, sentences, ids, texts = zip(*shard.own(), strict=True)
    if words.word_ids != ids:
        raise ValueError("surprisal: the extracted words differ from the words of the shard.")  # internal error
    # The correction needs a space after each word.
    space_bits = words.space_bits if shard.joiner == " " else np.full(len(ids), np.nan)
    columns = {
        "passage": passages, "sentence": sentences, "word_id": ids, "word": texts, "surprisal_bits": words.bits,
        "corrected_bits": words.bits + space_bits, "n_tokens": words.n_tokens,
        "entropy_bits": words.entropy_bits, "rank": words.ranks,
    }  # fmt: skip
    return WordSurprisals(columns, dict(extracted.facts))


def _read_named(name: str, model: Model, shard: Shard, how: Protocol) -> WordSurprisals:
    """`read`, with the model's name at the beginning of error messages."""
    from harness.extraction.parity import ParityError

    try:
        return read(model, shard, how)
    except ParityError:
        raise
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(f"{name}: ") else f"{name}: {message}") from error


def context_in_words(checkpoint: Checkpoint, how: Protocol) -> str:
    """The column `context`: the context of a word and, for T5, whether encoder or decoder gets it."""
    if checkpoint.stack != "encoder-decoder":
        return how.context
    return f"{how.context}, {'in the encoder' if how.decoder_reads == 'stimulus' else 'by the decoder alone'}"


def protocols_of(checkpoint: Checkpoint, how: Protocol, t5_reads: str) -> list[Protocol]:
    """Protocols to run for a model: one for a decoder, one or two for T5.

    Args:
        checkpoint: the model.
        how: window, overlap, BOS and context.
        t5_reads: "text" (the decoder gets the whole text, the encoder an empty source), "context" (the encoder gets the
            context, the decoder the word) or "both".

    Raises:
        ValueError: if the model is an encoder.
    """
    if checkpoint.stack == "encoder":
        raise ValueError(f"{checkpoint.name} is an encoder, which gives no probabilities; give a decoder or a T5.")
    if checkpoint.stack != "encoder-decoder":
        return [how]
    decoder_inputs = {"text": ("text",), "context": ("stimulus",), "both": ("text", "stimulus")}[t5_reads]
    return [replace(how, decoder_reads=decoder_input) for decoder_input in decoder_inputs]  # type: ignore[arg-type]


def resolve(
    name: str, asked: AskedDtype, known_as: str = "", *, allow_pickle: bool = False
) -> tuple[Checkpoint, Dtype]:  # fmt: skip
    """Resolve a model to a checkpoint with local weights, and choose its precision.

    Args:
        name: name in the table, Hub id or folder.
        asked: precision requested by the user, or "auto".
        known_as: name in the tables, if it differs from the checkpoint's own.
        allow_pickle: whether pickled weights may be loaded.
    """
    checkpoint = checkpoints.with_weights(checkpoints.resolve(name, known_as, allow_pickle=allow_pickle), allow_pickle)
    return checkpoint, precision.dtype_of(checkpoint.family, checkpoint.stack, checkpoint.n_parameters, asked)


def surprisals(
    sources: Sequence[str],
    names: Sequence[str],
    options: WordOptions,
    *,
    progress: Callable[[str, int], None] | None = None,
    on_note: Callable[[str, str], None] | None = None,
) -> Iterator[pd.DataFrame]:
    """Compute the surprisal of each word of several corpora under several models, in this process.

    Args:
        sources: corpora, as in `corpora.put`.
        names: models: names in the table, Hub ids or folders.
        options: how texts are read and models run.
        progress: called after each shard with the model and the number of words processed.
        on_note: called with the model and each note on its tokenizer or files (`Checkpoint.notes`).

    Yields:
        Per model and shard one row per word: corpus, model, revision, dtype, context, and the columns of `read`.

    Raises:
        ValueError: if a model cannot be loaded or a corpus cannot be parsed; frames yielded before remain valid.
    """
    protocol, data_root, device = options.protocol, options.data_root, options.device
    device = memory.best_device() if device == "auto" else device
    for source in sources:  # report faulty texts before loading a model
        corpora.check(source, data_root, options.text)
    for name in names:
        checkpoints.require_known(name)
    for name, known_as in checkpoints.names_of(dict.fromkeys(names)).items():
        checkpoint, dtype = resolve(name, options.dtype, known_as, allow_pickle=options.allow_pickle)
        if on_note:
            for note in checkpoint.notes:
                on_note(checkpoint.name, note)
        modes = protocols_of(checkpoint, protocol, options.t5_reads)
        library, _ = backends.choose(checkpoint, options.backend, device, dtype, states=False)
        model = backends.load(library, checkpoint, device, dtype, allow_pickle=options.allow_pickle)
        for source, mode in product(sources, modes):
            yield from of_model(model, checkpoint, source, replace(options, protocol=mode), progress)
        model.close()


def of_model(
    model: Model,
    checkpoint: Checkpoint,
    source: str,
    options: WordOptions,
    progress: Callable[[str, int], None] | None = None,
) -> Iterator[pd.DataFrame]:
    """Compute the surprisal of each word of a corpus under a loaded model; arguments and frames as `surprisals`."""
    how = options.protocol
    for shard in corpora.shards_of(source, how.context, options.data_root, options.text):
        columns, facts = _read_named(checkpoint.name, model, shard, how)
        yield _frame(source, checkpoint, facts.get("dtype", model.loaded.dtype), how, columns)
        if progress:
            progress(checkpoint.name, len(columns["word"]))


def _frame(source: str, checkpoint: Checkpoint, dtype: str, how: Protocol, columns: dict[str, Any]) -> pd.DataFrame:
    """The columns of a shard, after the columns that are the same for all its words."""
    constants = {
        "corpus": corpora.name_of(source), "model": checkpoint.name, "revision": checkpoint.revision, "dtype": dtype,
        "context": context_in_words(checkpoint, how),
    }  # fmt: skip
    return pd.DataFrame({**dict.fromkeys(constants), **columns}).assign(**constants)
