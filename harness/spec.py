"""Specifications of evaluations: named functions that each return an `EvaluationSpec`.

Use `dataclasses.replace` for variants.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from harness.models import model_table as models
from harness.protocol import AskedBackend, AskedDtype, Kept, ProtocolName, Variant
from harness.variants import Condition, UnitCount


@dataclass(frozen=True)
class EvaluationSpec:
    """Feature sources x data sets x protocols.

    Attributes:
        name: name of the specification.
        models: names in the table of models, Hub ids or folders.
        datasets: names of data sets.
        protocols: names of protocols.
        controls: names in harness/features/controls.py.
        variants: additional variants of each model: "untrained" (random initialisation), "shuffled" (word order
            shuffled), "chat" (with its chat template, if it has one).
        localise: numbers of units, such as "512" or "10%": each gives the localised units of each model as a variant,
            those of its untrained control, and `random_draws` variants of as many random units.
        localiser: file or folder of the contrast texts; "" for the built-in ones.
        random_draws: number of draws of random units.
        conditions: prompts; each gives another variant of each model, which reads the stimuli after the prompt.
        seed: seed of all random choices.
        vectors, corpus: files of word vectors and of plain text for the controls "static-vectors" and "ngram", which
            are skipped without them.
        keep: "predictions" and "weights" of the chosen layer of brain recordings, stored beside the scores.
        dtype, backend: for all models, or "auto".
    """

    name: str
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    protocols: tuple[ProtocolName, ...] = ("strict", "paper")
    controls: tuple[str, ...] = (
        "length", "word-rate", "position", "oasm", "drift", "random", "frequency", "static-vectors", "ngram",
    )  # fmt: skip
    variants: tuple[Variant, ...] = ("untrained",)
    seed: int = 0
    vectors: str = ""
    corpus: str = ""
    keep: tuple[Kept, ...] = ()
    dtype: AskedDtype = "auto"
    backend: AskedBackend = "auto"
    conditions: tuple[Condition, ...] = ()
    localise: tuple[str, ...] = ()
    localiser: str = ""
    random_draws: int = 1

    def __post_init__(self) -> None:
        for text in self.localise:
            UnitCount(text)
        if self.random_draws < 0:
            raise ValueError(f"{self.random_draws} draws of random units are wanted; give 0 or more.")
        if self.localiser and not self.localise:
            raise ValueError("--localiser gives contrast texts, but no units are localised; add --localise 10%.")
        if self.conditions and "brainscore2026" in self.protocols:
            raise ValueError(
                "Brain-Score's encoding has no prompts, so conditions are not scored under brainscore2026; give "
                "--protocol strict, paper, equal or both."
            )

    @property
    def content(self) -> dict[str, Any]:
        """What the specification asks for, without prompts and chosen units if there are none.

        Runs without them are called what they were called before there were such options.
        """
        unused = set() if self.conditions else {"conditions"}
        unused |= set() if self.localise else {"localise", "localiser", "random_draws"}
        return {name: value for name, value in asdict(self).items() if name not in unused}


def quickstart() -> EvaluationSpec:
    """Three tiny models and a synthetic recording with a known answer; offline, about half a minute on two cores."""
    return EvaluationSpec("quickstart", ("tiny-llama", "tiny-gpt2", "tiny-t5"), ("synthetic", "synthetic-reading"))


def real() -> EvaluationSpec:
    """Recordings available as files: reading times, 1,000 sentences, a chapter of Alice. Needs --model."""
    return EvaluationSpec("real", (), ("futrell2018-2016", "futrell2018-2021", "tuckute2024", "brennan2016"))


def paper() -> EvaluationSpec:
    """The paper's four data sets, under the PAPER and STRICT protocols. Needs --model."""
    return EvaluationSpec("paper", (), ("pereira2018", "blank2014", "wehbe2014", "futrell2018-2016"))


def appendix_j() -> EvaluationSpec:
    """The paper's appendix J: Gemma 2B, 7B and LLaMA-2 7B, 13B, base and tuned, on its brain data sets; RSA and CKA."""
    names = tuple(entry.name for entry in models.MODELS.values() if entry.group == "appendix J")
    return EvaluationSpec("appendix_j", names, paper().datasets[:3])


def scale() -> EvaluationSpec:
    """100 models of 60 million to 70 billion parameters on the paper's data sets, for forecasts with `harness plan`."""
    return EvaluationSpec("scale", models.scale(), paper().datasets)


# Checkpoints of pre-training, about evenly spaced in log tokens.
_PYTHIA = tuple(f"pythia-1b@step{step}" for step in (0, 1, 4, 16, 64, 256, 512, 1000, 4000, 16000, 64000, 143000))
_OLMO = tuple(f"olmo-2-1b@stage1-{revision}" for revision in (
    "step0-tokens0B", "step300-tokens1B", "step10000-tokens21B", "step20000-tokens42B", "step50000-tokens105B",
    "step140000-tokens294B", "step480000-tokens1007B", "step950000-tokens1993B", "step1907359-tokens4001B",
))  # fmt: skip


def stages() -> EvaluationSpec:
    """Bases and each stage of their tuning (OLMo 2 and 3, Tulu 3), and checkpoints along pre-training."""
    return EvaluationSpec("stages", (*models.stages(), *_PYTHIA, *_OLMO), paper().datasets)


SPECS = {spec.__name__: spec for spec in (quickstart, real, paper, appendix_j, scale, stages)}
