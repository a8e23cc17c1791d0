"""WikiText-2, the test text: how well a model predicts the next token of articles of Wikipedia.

Merity et al. (2016), "Pointer Sentinel Mixture Models", CC BY-SA 3.0; the raw text, as its authors tokenised it
(" @-@ ", " , "). Nobody's data: what comes of it are a model's loss, perplexity and accuracy (table
`next_word_scores`), which stand among its properties.

Read as one text: the lines that are not empty, joined by a line's end. The paper does not state how it read it.
"""

from __future__ import annotations

from pathlib import Path

from harness.datasets.entry import Entry, File, version_of
from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Dataset, Stimuli

_FILE = "wikitext2/wiki.test.txt"
_NOTES = (
    "METHODS section 7: loss on the test text. Not stated: windows and how lines are joined. Read as one text in "
    "windows of 2,048 tokens, or what the model reads, that overlap by half. Folds, regression and layer are not used.",
)
PAPER = Protocol(
    "paper", "corpus", FoldRule("grouped"), Regression("ols"), "max", decoder_reads="text", notes=_NOTES
)  # fmt: skip


def load(root: Path) -> Dataset:
    """Load the lines that are not empty, as stimuli; an article is a passage."""
    lines = (root / _FILE).read_text(encoding="utf-8").splitlines()
    kept = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    article, articles = 0, []
    for _, line in kept:  # " = Title = " begins one, " = = Part = = " a part of it
        article += line.startswith("= ") and line.endswith(" =") and not line.startswith("= =")
        articles.append(f"article {article}")
    texts = tuple(line for _, line in kept)
    stimuli = Stimuli(tuple(f"line {number}" for number, _ in kept), texts, tuple(articles), separator="\n")
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
