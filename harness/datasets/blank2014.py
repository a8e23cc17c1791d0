"""Blank2014: fMRI of five participants listening to eight stories.

Blank, Kanwisher & Fedorenko (2014), Journal of Neurophysiology 112, 1105-1118. Eight Natural Stories, 1,317 scans of
2 s, 12 functional regions of the language network (six per hemisphere) in each of 5 subjects: 60 neuroids. Read from
the assembly published by Brain-Score. Its rows are scans, each with the words that ended in the 2 s window 4 s earlier,
so the haemodynamic delay is already in the pairing. The texts of a story, concatenated unchanged, give the story.

Rows are sorted by (story, sentence, part of the sentence), stories by name, whatever their order in the file; random
splits are drawn over the rows in the order of the file. A story is one context, one block of time and one group. Every
text ends with a space, which belongs to the word after it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.datasets import pereira2018
from harness.datasets.entry import Entry
from harness.datasets.formats import netcdf
from harness.protocol import FoldRule, equal_dimension
from harness.records import Dataset, Stimuli

_FILE = "blank2014/assy_Blank2014_fROI.nc"
_PRESENTATION = ("stimulus_id", "stimulus", "story", "sentence_number_in_story", "part_number_in_sentence")
_NEUROID = ("neuroid_id", "subject_id", "fROI_area", "region")
CEILING = 0.21026591

PAPER = replace(
    pereira2018.PAPER,
    notes=(
        "Aw et al. (2023): as for Pereira2018, 10 random 90/10 splits over scans. The context is the whole story so "
        "far; the features of a scan are the hidden states at the token with its last visible character.",
        "Compared with Brain-Score language 2.3.0 (Blank2014-linear-shuffle): the same draws; there scans are joined "
        "by another space and the hidden states are those of the bare space at the end of a scan; long stories are "
        "read in windows that overlap by half, there truncated from the left; every context starts with BOS; constant "
        "features give NaN, there 0; least squares in float64, there in the features' float32.",
    ),
)
STRICT = replace(
    pereira2018.STRICT,
    folds=FoldRule("leave one group out", min_test_rows=10),
    notes=("One story is left out at a time. Alpha and layer are chosen by leaving stories out of the training rows.",),
)
BRAINSCORE2026 = replace(
    pereira2018.BRAINSCORE2026,
    context="passage",
    folds=FoldRule("grouped", n=8, seed=1234),
    notes=(
        "Brain-Score language 2.3.0 (August 2026), Blank2014-ridge, from the text to the score of every layer (equal "
        "within 1e-6 where compared), faults included: scans are joined by a space although each ends with one, and "
        "the hidden state of a scan is that of the bare space at its end. Texts are encoded with the tokenizer's own "
        "special tokens and truncated from the left.",
        "Differences: the best layer is used, there each model has a fixed layer. A text has at most 2,048 tokens, "
        "there only the tokenizer's own limit. Encoders and encoder-decoders, which Brain-Score does not have, are "
        "encoded as elsewhere.",
    ),
)


def load(root: Path) -> Dataset:
    """Load the assembly under the data root.

    Returns:
        1,317 scans with their words, and responses (1,317, 60).

    Raises:
        ValueError: if the file does not have the published format; names the file and the error.
    """
    return read(root / _FILE)


def read(path: Path) -> Dataset:
    """Load an assembly of the published format, complete or a subset; raises as `load`."""
    assembly = netcdf.read(path, _PRESENTATION, _NEUROID)
    stories, sentences = assembly.presentation["story"], assembly.numbers("sentence_number_in_story")
    rows = np.lexsort((assembly.numbers("part_number_in_sentence"), sentences, stories))
    ids, texts, passages = (assembly.column(name, rows) for name in ("stimulus_id", "stimulus", "story"))
    unit = "BOLD response of a region, as published (unit not stated)"
    stimuli = Stimuli(ids, texts, passages, separator="", file_rows=rows)
    return assembly.dataset("blank2014", stimuli, rows, "neuroid", unit, CEILING)


ENTRY = Entry(
    name="blank2014",
    title="Eight stories, 5 participants x 12 language regions, listening",
    kind="brain",
    licence="not stated with the assembly",
    load=load,
    protocols=(PAPER, STRICT, equal_dimension(STRICT), BRAINSCORE2026),
    citation="Blank, Kanwisher, Fedorenko (2014), A functional dissociation between language and multiple-demand "
    "systems revealed in patterns of BOLD signal fluctuations, Journal of Neurophysiology 112(5), 1105-1118, "
    "doi:10.1152/jn.00884.2013",
    landing="https://github.com/brain-score/language",
    extent="1,317 x 60",
    files=(netcdf.published(_FILE, "af1e868821b897cb1684e4c8dcd33977121ef552"),),
)
