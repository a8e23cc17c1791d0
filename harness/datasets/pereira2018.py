"""Pereira2018: fMRI of ten participants reading sentences, in two experiments.

Pereira et al. (2018), Nature Communications 9, 963. Experiment 2, "384sentences": 96 passages of 4 sentences, 9
subjects; experiment 3, "243sentences": 72 passages of 3 or 4 sentences, 6 subjects; 4 s per sentence, one response per
sentence and voxel. Read from the assembly published by Brain-Score: 627 sentences x 13,553 voxels of the language
network (12,155 and 8,031 of them in the two experiments), NaN if a subject did not take part.

The experiments are parts of the recording. Each is fitted and scored on its own rows; "all" is the mean of the two, as
in Aw et al. A passage is a passage_index within an experiment; the groups that STRICT holds out are topics (`story`).
Rows are sorted by (experiment, passage, sentence), whatever their order in the file; random splits are drawn over the
rows in the order of the file.

Brain-Score uses the sentences of one passage_label as one context; in "243sentences" that is a topic of three passages.
BRAINSCORE2026 does so too; elsewhere a context is a passage, as in Aw et al.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.datasets.entry import Entry
from harness.datasets.formats import netcdf
from harness.protocol import BRAINSCORE_RIDGE, WIDE_RIDGE, FoldRule, Protocol, Regression, equal_dimension
from harness.records import Dataset, Stimuli

_FILE = "pereira2018/assy_Pereira2018_language.nc"
_PRESENTATION = (
    "stimulus_id", "sentence", "experiment", "passage_index", "passage_label", "stimulus_num", "story",
)  # fmt: skip
_NEUROID = ("neuroid_id", "subject", "roi", "atlas")
# From Brain-Score's Pereira2018.243sentences-linear and .384sentences-linear; the paper prints their mean, 0.359.
CEILINGS = {"243sentences": 0.35378928, "384sentences": 0.36343748}

PAPER = Protocol(
    name="paper",
    context="passage",
    folds=FoldRule("shuffled", n=10, test_fraction=0.1, seed=1),
    regression=Regression("ols", scale="center"),
    layer_choice="max",
    notes=(
        "Aw et al. (2023): least squares (minimum norm if there are more features than rows), 10 random 90/10 splits "
        "over the sentences of an experiment, not grouped. Median over the voxels of all subjects, mean over splits, "
        "mean of the two experiments. The best layer is chosen on the same scores.",
        "Compared with Brain-Score language 2.3.0 (.243sentences- and .384sentences-linear-shuffle): the same draws; a "
        "context is a passage, there all sentences of a passage_label; long contexts are read in windows that overlap "
        "by half, there truncated from the left; every context starts with BOS; constant features give NaN, there 0; "
        "least squares in float64, there in the features' float32.",
    ),
)
STRICT = Protocol(
    name="strict",
    context="passage",
    folds=FoldRule("grouped", n=10, seed=1234, min_test_rows=10),
    regression=WIDE_RIDGE,
    layer_choice="nested",
    aggregate="by subject",
    ceiling_curve="reliability",
    notes=(
        "Whole topics are held out, in the folds of Brain-Score language of 2026. Alpha and layer are chosen by "
        "leaving topics out of the training rows. The grid of alphas is relative and wide. The 2026 grid, 1e-3 to 1e3, "
        "is too narrow: on these data every recorded fit chose its upper end.",
    ),
)
BRAINSCORE2026 = Protocol(
    name="brainscore2026",
    context="label",
    encoding="brainscore",
    bos="none",
    folds=FoldRule("grouped", n=10, seed=1234),
    regression=BRAINSCORE_RIDGE,
    layer_choice="max",
    metric="brainscore_r",
    notes=(
        "Brain-Score language 2.3.0 (August 2026), Pereira2018.243sentences-ridge and .384sentences-ridge, from the "
        "text to the score of every layer (equal within 1e-6 where compared). Contexts are the sentences of a "
        "passage_label, encoded as there: with the tokenizer's own special tokens, truncated from the left.",
        "Differences: the best layer is used, there each model has a fixed layer. `all` is the mean of the raw scores, "
        "there each is first divided by its ceiling. A text has at most 2,048 tokens, there only the tokenizer's own "
        "limit. Encoders and encoder-decoders, which Brain-Score does not have, are encoded as elsewhere.",
    ),
)


def load(root: Path) -> Dataset:
    """Load the assembly under the data root.

    Returns:
        627 sentences and responses (627, 13,553), NaN if the subject of a voxel was not in the experiment.

    Raises:
        ValueError: if the file does not have the published format; names the file and the error.
    """
    return read(root / _FILE)


def read(path: Path) -> Dataset:
    """Load an assembly of the published format, complete or a subset; raises as `load`."""
    assembly = netcdf.read(path, _PRESENTATION, _NEUROID)
    experiment, label = (assembly.presentation[name] for name in ("experiment", "passage_label"))
    passage = assembly.numbers("passage_index")
    rows = np.lexsort((assembly.numbers("stimulus_num"), passage, experiment))
    passages = tuple(f"{experiment[row]}.{passage[row]}" for row in rows)
    ids, texts, topics = (assembly.column(name, rows) for name in ("stimulus_id", "sentence", "story"))
    unit = "response to a sentence, as published (unit not stated)"
    labels = tuple(f"{experiment[row]}.{label[row]}" for row in rows)
    stimuli = Stimuli(ids, texts, passages, topics, labels=labels, file_rows=rows)
    return assembly.dataset("pereira2018", stimuli, rows, "voxel", unit, CEILINGS, "experiment")


ENTRY = Entry(
    name="pereira2018",
    title="627 sentences in passages, two experiments: 10 participants, voxels of the language network",
    kind="brain",
    licence="not stated with the assembly",
    load=load,
    protocols=(PAPER, STRICT, equal_dimension(STRICT), BRAINSCORE2026),
    citation="Pereira, Lou, Pritchett, Ritter, Gershman, Kanwisher, Botvinick, Fedorenko (2018), Toward a universal "
    "decoder of linguistic meaning from brain activation, Nature Communications 9, 963, "
    "doi:10.1038/s41467-018-03068-4",
    landing="https://github.com/brain-score/language",
    extent="627 x 13,553",
    files=(netcdf.published(_FILE, "f8434b4022f5b2c862f0ff2854d5b3f5f2a7fb96"),),
)
