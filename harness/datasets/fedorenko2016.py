"""Fedorenko2016: ECoG of five participants reading sentences word by word.

Fedorenko et al. (2016), PNAS 113, E6256-E6262. 52 sentences of 8 words, shown one word at a time, in capitals: 416
words; 97 language-responsive electrodes of 5 patients (47, 8, 9, 15 and 18). Read from the assembly published by
Brain-Score: one response per word and electrode, already averaged over the time of the word, so there is no time axis
and no delay is applied.

A sentence is one context, one block of time and one group. Rows are sorted by (sentence, word), whatever their order in
the file; random splits are drawn over the rows in the order of the file.

The responses rise over the words of a sentence (the finding of the paper), so the control "position" has to be beaten.

Omitted: other electrodes, and the conditions without meaning or syntax (word lists, Jabberwocky, nonwords), which the
assembly does not have. It has no regions either.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.datasets import pereira2018
from harness.datasets.entry import Entry, version_of
from harness.datasets.formats import netcdf
from harness.protocol import FoldRule, equal_dimension
from harness.records import Dataset, Integers, Responses, Stimuli

_FILE = "fedorenko2016/assy_Fedorenko2016_language.nc"
_PRESENTATION = ("stimulus_id", "stimulus", "sentence_id", "word_num")
_NEUROID = ("neuroid_id", "subject_UID")

PAPER = replace(
    pereira2018.PAPER,
    notes=(
        "Aw et al. (2023) did not use this data set; the protocol is theirs for Pereira2018, which is also that of "
        "Brain-Score language's Fedorenko2016-linear-shuffle: 10 random 90/10 splits over words. The context is the "
        "sentence so far. Words of one sentence are in training and test rows.",
        "Schrimpf et al. (2021) used 5 folds over words, stratified by sentence, with the same least squares.",
    ),
)
STRICT = replace(
    pereira2018.STRICT,
    notes=(
        "Whole sentences are held out (5 or 6 of 52), in the folds of Brain-Score language of 2026. Alpha and layer "
        "are chosen by leaving sentences out of the training rows.",
    ),
)
BRAINSCORE2026 = replace(
    pereira2018.BRAINSCORE2026,
    context="passage",
    folds=FoldRule("grouped", n=10, seed=1234),
    notes=(
        "Brain-Score language of August 2026, Fedorenko2016-ridge: the words of a sentence so far are joined by "
        "spaces and encoded with the tokenizer's own special tokens; whole sentences are held out.",
        "Differences: the best layer is used, there the score is the mean over the layers of a model, each divided by "
        "the ceiling. Not compared with Brain-Score's own figures on this recording.",
    ),
)


def load(root: Path) -> Dataset:
    """Load the assembly under the data root.

    Returns:
        416 words and responses (416, 97).

    Raises:
        ValueError: if the file does not have the published format; names the file and the error.
    """
    return read(root / _FILE)


def read(path: Path) -> Dataset:
    """Load an assembly of the published format, complete or a subset; raises as `load`."""
    assembly = netcdf.read(path, _PRESENTATION, _NEUROID)
    sentences, positions = assembly.numbers("sentence_id"), assembly.numbers("word_num")
    rows = np.lexsort((positions, sentences))
    _require_one_word_per_position(path, sentences[rows], positions[rows])
    ids, words = (assembly.column(name, rows) for name in ("stimulus_id", "stimulus"))
    # Folds are drawn over sorted names: with leading zeros these are in the order of Brain-Score's numbers.
    passages = tuple(f"{sentence:02d}" for sentence in sentences[rows])
    stimuli = Stimuli(ids, words, passages, sentences=passages, file_rows=rows)
    electrodes, subjects = (tuple(labels.tolist()) for labels in assembly.neuroid.values())
    responses = Responses(
        assembly.values[rows].astype(np.float32), ids, stimuli.groups, passages, electrodes, subjects,
        ("",) * len(electrodes), "high-gamma response to a word, as published (unit not stated)", file_rows=rows,
    )  # fmt: skip
    return Dataset("fedorenko2016", version_of(stimuli, responses), stimuli, responses, rows_in_order=False)


def _require_one_word_per_position(path: Path, sentences: Integers, positions: Integers) -> None:
    """Raise if two words have the same place in a sentence, since their order would be arbitrary."""
    is_same = (np.diff(sentences) == 0) & (np.diff(positions) == 0)
    if is_same.any():
        row = int(is_same.argmax())
        raise ValueError(
            f"{path.name}: sentence_id {sentences[row]} has two words with word_num {positions[row]}, wanted one; "
            "fetch the file again."
        )


ENTRY = Entry(
    name="fedorenko2016",
    title="52 sentences read word by word: ECoG, 5 participants, 97 language-responsive electrodes",
    kind="brain",
    licence="not stated with the assembly",
    load=load,
    protocols=(PAPER, STRICT, equal_dimension(STRICT), BRAINSCORE2026),
    citation="Fedorenko, Scott, Brunner, Coon, Pritchett, Schalk, Kanwisher (2016), Neural correlate of the "
    "construction of sentence meaning, PNAS 113(41), E6256-E6262, doi:10.1073/pnas.1612132113",
    landing="https://github.com/brain-score/language",
    extent="416 x 97",
    files=(netcdf.published(_FILE, "2966b6d78e972a72068aa6907377483f427e8d9a"),),
)
