"""`harness.surprisal`: the surprisal of every word of a text, in this process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from harness.api import given
from harness.extraction import with_transformers
from harness.extraction.backends import Model
from harness.loading.in_memory import InMemory
from harness.protocol import surprisal_alone
from harness.text.word_files import TextOptions
from harness.units import word_units
from harness.units.word_units import WordOptions


def surprisal(
    text: str | os.PathLike[str] | Sequence[str] | pd.DataFrame,
    model: Any,
    *,
    context: Literal["passage", "sentence", "corpus", "none"] = "passage",
    joiner: str | None = None,
    language: str = "",
    **options: Any,
) -> pd.DataFrame:
    """Compute the surprisal in bits of each word of a text, as `harness surprisal`.

    Args:
        text: a text; a list of words; a frame with a column `word` and optionally `passage`, `sentence`, `word_id`; or
            a file of these as a Path.
        model: as in `evaluate`.
        context: what precedes a word in the input: its passage, its sentence, the whole text, or nothing.
        joiner: separator between words: a space, or "" as in Chinese.
        language: BCP 47 code of the text, for finding sentence ends; "" is English.
        options: fields of `harness.units.word_units.WordOptions`: t5_reads, dtype, backend, device, allow_pickle.

    Returns:
        One row per word and model: model, word, surprisal_bits, corrected_bits, entropy_bits, rank, n_tokens, ...

    Raises:
        ValueError: if a model is not usable, or a word is empty or begins or ends with a space.
    """
    how = WordOptions(surprisal_alone(context), text=TextOptions(None, joiner, language), **options)
    with tempfile.TemporaryDirectory(prefix="harness-") as scratch:
        names, in_memory = given.models(model, Path(scratch) / "models")
        source = str(_file(text, Path(scratch)))
        of_names = [name for name in names if name not in in_memory]
        frames = [*word_units.surprisals([source], of_names, how)] if of_names else []
        for own in in_memory.values():
            frames += _of_memory(own, source, how)
    return pd.concat(frames, ignore_index=True)


def _of_memory(own: InMemory, source: str, how: WordOptions) -> Iterator[pd.DataFrame]:
    with own.loaded() as loaded:
        model = Model("transformers", loaded, with_transformers.extract)
        for mode in word_units.protocols_of(own.checkpoint, how.protocol, how.t5_reads):
            yield from word_units.of_model(model, own.checkpoint, source, replace(how, protocol=mode))


def _file(text: Any, folder: Path) -> Path:
    """The text as a file."""
    if isinstance(text, os.PathLike):
        return Path(text)
    if isinstance(text, str):
        if not text.strip():
            raise ValueError("the text is empty; give at least one word.")
        (folder / "text.txt").write_text(text, encoding="utf-8")
        return folder / "text.txt"
    frame = text if isinstance(text, pd.DataFrame) else pd.DataFrame({"word": list(text)}, dtype=object)
    if not len(frame):
        raise ValueError("there are no words; give at least one.")
    frame.to_parquet(folder / "words.parquet", index=False)
    return folder / "words.parquet"
