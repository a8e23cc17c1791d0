"""Blank2014: five people listen to eight stories in the scanner.

Blank, Kanwisher & Fedorenko (2014), Journal of Neurophysiology 112, 1105-1118. Eight Natural Stories, 1,317 scans of
2 s, 12 functional regions of the language network (six on each side) in each of 5 subjects: 60 neuroids. Read from the
assembly that Brain-Score publishes, whose rows are scans, each with the words that ended in the 2 s before, 4 s earlier
(the shift of the blood's answer is in the pairing). The texts of a story, joined as they are, are the story.

Rows are put in the order (story, sentence, part of the sentence), stories by name, whatever the file's. A story is one
context, one block of time and one group.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.datasets.entry import Entry, File, version_of
from harness.datasets.formats import netcdf
from harness.protocol import BRAINSCORE_RIDGE, WIDE_RIDGE, FoldRule, Protocol, Regression, equal_dimension
from harness.records import Dataset, Responses, Stimuli

_FILE = "blank2014/assy_Blank2014_fROI.nc"
_PRESENTATION = ("stimulus_id", "stimulus", "story", "sentence_number_in_story", "part_number_in_sentence")
_NEUROID = ("neuroid_id", "subject_id", "fROI_area", "region")
_REGION = "language"
CEILING = 0.21026591

PAPER = Protocol(
    name="paper",
    context="passage",
    folds=FoldRule("shuffled", n=10, test_fraction=0.1, seed=1),
    regression=Regression("ols", scale="center"),
    layer_choice="max",
    notes=(
        "METHODS section 2: as Pereira2018, 10 random splits of 90/10 over scans; the context is the whole story so "
        "far, the last token of a scan's words is read.",
    ),
)
STRICT = Protocol(
    name="strict",
    context="passage",
    folds=FoldRule("leave one group out", min_test_rows=10),
    regression=WIDE_RIDGE,
    layer_choice="nested",
    notes=("METHODS section 2: one story is left out at a time; alpha and layer by leaving out training stories.",),
)
BRAINSCORE2026 = Protocol(
    name="brainscore2026",
    context="passage",
    folds=FoldRule("grouped", n=8, seed=1234),
    regression=BRAINSCORE_RIDGE,
    layer_choice="max",
    metric="brainscore_r",
    notes=(
        "Brain-Score language's Blank2014-ridge of August 2026, but that the best layer is taken where a model there "
        "comes with its own.",
    ),
)


def load(root: Path) -> Dataset:
    """Load the assembly under the data root.

    Returns:
        1,317 scans with their words, and responses (1,317, 60).

    Raises:
        ValueError: if the file does not have the published form; it names the file and what is wrong.
    """
    return read(root / _FILE)


def read(path: Path) -> Dataset:
    """Load an assembly of the published form, whole or in part; errors as in `load`."""
    found = netcdf.read(path, _PRESENTATION, _NEUROID)
    shown, regions = found.presentation, found.neuroid
    order = (found.numbers("part_number_in_sentence"), found.numbers("sentence_number_in_story"), shown["story"])
    rows, columns = np.lexsort(order), np.flatnonzero(regions["region"] == _REGION)
    if not len(columns):
        raise ValueError(f"{path.name}: no region of {_REGION!r}; there are {sorted(set(regions['region']))}.")
    stories = tuple(shown["story"][rows].tolist())
    stimuli = Stimuli(
        ids=tuple(shown["stimulus_id"][rows].tolist()),
        texts=tuple(shown["stimulus"][rows].tolist()),
        passages=stories,
        separator="",
    )
    responses = Responses(
        values=found.values[np.ix_(rows, columns)].astype(np.float32),
        row_ids=stimuli.ids,
        row_groups=stories,
        row_blocks=stories,
        neuroid_ids=tuple(regions["neuroid_id"][columns].tolist()),
        subjects=tuple(regions["subject_id"][columns].tolist()),
        rois=tuple(regions["fROI_area"][columns].tolist()),
        unit="BOLD response of a region, as published (unit not stated)",
    )
    return Dataset(
        "blank2014",
        version_of(stimuli, responses),
        stimuli,
        responses,
        published_ceiling=CEILING,
        ceiling_source="published (Brain-Score, subjects extrapolated)",
    )


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
    files=(
        File(
            _FILE,
            "https://brainscore-storage.s3.amazonaws.com/brainscore-language/assy_Blank2014_fROI.nc",
            "sha1:af1e868821b897cb1684e4c8dcd33977121ef552",
            0,
        ),
    ),
)
