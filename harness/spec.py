"""What is to be measured: named evaluations, each a function that returns an `EvaluationSpec`.

Vary one with `dataclasses.replace`.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.models import model_table as models
from harness.protocol import AskedBackend, AskedDtype, ProtocolName, Variant


@dataclass(frozen=True)
class EvaluationSpec:
    """Feature sources x data sets x protocols.

    models: names of the table, Hub ids or folders; controls: names in harness/features/controls.py; variants: how each
    model runs besides ("untrained": weights drawn anew; "shuffled": word order destroyed; "chat": in its chat template,
    where it has one); vectors, corpus: files of word vectors and of text, which the controls "static-vectors" and
    "ngram" need and without which they are left out; dtype, backend: of all models, or "auto".
    """

    name: str
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    protocols: tuple[ProtocolName, ...] = ("strict", "paper")
    controls: tuple[str, ...] = (
        "length", "word-rate", "position", "oasm", "random", "frequency", "static-vectors", "ngram",
    )  # fmt: skip
    variants: tuple[Variant, ...] = ("untrained",)
    seed: int = 0
    vectors: str = ""
    corpus: str = ""
    dtype: AskedDtype = "auto"
    backend: AskedBackend = "auto"


def quickstart() -> EvaluationSpec:
    """Three tiny models and a recording whose answer is known; offline, two minutes on two cores."""
    return EvaluationSpec("quickstart", ("tiny-llama", "tiny-gpt2", "tiny-t5"), ("synthetic", "synthetic-reading"))


def real() -> EvaluationSpec:
    """The recordings that can be had as files: reading times, 1,000 sentences, a chapter of Alice. Give --model."""
    return EvaluationSpec("real", (), ("futrell2018-2016", "futrell2018-2021", "tuckute2024", "brennan2016"))


def paper() -> EvaluationSpec:
    """The paper's four data sets, under its protocols and the strict ones. Give --model."""
    return EvaluationSpec("paper", (), ("pereira2018", "blank2014", "wehbe2014", "futrell2018-2016"))


def scale() -> EvaluationSpec:
    """100 models of 60 million to 70 billion parameters on the paper's data sets: a fleet to plan for."""
    return EvaluationSpec("scale", models.scale(), paper().datasets)


SPECS = {spec.__name__: spec for spec in (quickstart, real, paper, scale)}
