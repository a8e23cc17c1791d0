"""A user's own text -> bits per word, in this process (`harness surprisal`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from io import StringIO
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import Progress, TaskID

from harness import checkpoints, contexts, extract, precision, reader, surprisal
from harness.records import Stimuli


def read(file: str) -> Stimuli:
    """The words of a CSV or TSV with a column `word` (and optionally `passage` and `word_id`), or of plain text.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no column `word`, no word, or the file is not UTF-8.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} is not there; give a CSV with a column `word`, or a plain text.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}); convert it.") from error
    if not text.strip():
        raise ValueError(f"{file} is empty.")
    if path.suffix.lower() in {".csv", ".tsv"}:
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        frame = pd.read_csv(StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    else:
        frame = pd.DataFrame({"word": text.split()})
    if frame.empty:
        raise ValueError(f"{file} has no words.")
    if "word" not in frame:
        raise ValueError(f"{file} has the columns {', '.join(frame)}; one must be called `word`.")
    passages = frame.get("passage", pd.Series(["text"] * len(frame)))
    ids = frame.get("word_id", pd.Series([str(row + 1) for row in range(len(frame))]))
    return Stimuli(tuple(ids), tuple(frame["word"]), tuple(passages))


def _advance(shown: Progress, bar: TaskID, share: float) -> None:
    shown.update(bar, completed=share)


def surprisals(file: str, names: Sequence[str], context: str) -> pd.DataFrame:
    """Surprisal of each word under each model.

    Args:
        file: see `read`.
        names: of the table, Hub ids or folders.
        context: "passage" (starts afresh at each passage) or "corpus".

    Returns:
        One row per model and word: model, revision, dtype, passage, word_id, word, surprisal_bits, n_tokens.

    Raises:
        ValueError: if a model cannot be loaded, or is an encoder.
    """
    stimuli = read(file)
    parts = []
    for name in names:
        checkpoint = checkpoints.with_weights(checkpoints.resolve(name))
        dtype = precision.dtype_of(checkpoint.family, checkpoint.stack, checkpoint.n_parameters)
        model = reader.load(checkpoint, dtype=dtype)
        if model.stack == "encoder":
            raise ValueError(f"{checkpoint.name} is an encoder, which gives no probabilities; give a decoder or a T5.")
        encoded = [model.encode(part) for part in contexts.build(stimuli, context)]
        with Progress(console=Console(stderr=True), transient=True) as shown:
            bar = shown.add_task(checkpoint.name, total=1.0)
            heard = partial(_advance, shown, bar)
            logs = extract.extract(model, encoded, states=False, progress=heard).log_probabilities
        assert logs is not None  # noqa: S101 - asked for
        words = surprisal.per_word(encoded, logs)
        parts.append(
            pd.DataFrame(
                {
                    "model": checkpoint.name,
                    "revision": checkpoint.revision,
                    "dtype": dtype,
                    "passage": stimuli.passages,
                    "word_id": words.word_ids,
                    "word": stimuli.texts,
                    "surprisal_bits": words.bits,
                    "n_tokens": words.n_tokens,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
