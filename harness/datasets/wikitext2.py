"""WikiText-2, test text: next-token prediction on Wikipedia articles.

Merity et al. (2016), "Pointer Sentinel Mixture Models", CC BY-SA 3.0; the raw text as tokenised by its authors
(" @-@ ", " , "). Text only, no human responses: the results are loss, perplexity and accuracy of a model (table
`next_word_scores`), which are among its properties.

The non-empty lines, joined by line breaks, are one text. Aw et al. do not state how they joined the lines.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.datasets.entry import Entry, File, version_of
from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Dataset, Stimuli

_FILE = "wikitext2/wiki.test.txt"
_NOTES = (
    "Aw et al. (2023): loss on the test text. They do not state windows or how lines are joined. Here it is one text "
    "in windows of 2,048 tokens, or the model's limit if lower, that overlap by half. Folds, regression and layer are "
    "not used.",
)
PAPER = Protocol(
    "paper", "corpus", FoldRule("grouped"), Regression("ols"), "max", decoder_reads="text", notes=_NOTES
)  # fmt: skip


def load(root: Path) -> Dataset:
    """Load the non-empty lines as stimuli; each article is a passage."""
    lines = (root / _FILE).read_text(encoding="utf-8").splitlines()
    kept = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    ids, texts = tuple(f"line {number}" for number, _ in kept), tuple(line for _, line in kept)
    # " = Title = " begins an article, " = = Section = = " a section of it
    is_title = [line.startswith("= ") and line.endswith(" =") and not line.startswith("= =") for line in texts]
    stimuli = Stimuli(ids, texts, tuple(f"article {number}" for number in np.cumsum(is_title)), separator="\n")
    return Dataset("wikitext2", version_of(stimuli), stimuli)


ENTRY = Entry(
    name="wikitext2",
    title="WikiText-2, test text: next-word prediction",
    kind="text",
    licence="CC BY-SA 3.0",
    load=load,
    protocols=(PAPER,),
    citation="Merity, Xiong, Bradbury, Socher (2016), Pointer Sentinel Mixture Models, arXiv 1609.07843",
    landing="https://huggingface.co/datasets/Salesforce/wikitext",
    extent="241,211 words",
    files=(
        File(_FILE, "", "sha256:c8e3ae92a2980cb187dd60e3204581534277a640e165fbc16550245dd5e100d7", 1_286_232),
    ),
)  # fmt: skip
