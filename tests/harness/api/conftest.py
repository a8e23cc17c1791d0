"""A tiny model, and a recording that follows one feature of its texts."""

from __future__ import annotations

import numpy as np
import pytest

from harness.models import tiny
from harness.records import Dataset, Responses, Stimuli

NOUNS = ("dog", "river", "house", "teacher", "window", "engine")
VERBS = ("sees", "follows", "paints", "remembers")


def sentences(n):
    rng = np.random.default_rng(0)
    return tuple(f"The {rng.choice(NOUNS)} {rng.choice(VERBS)} the old {rng.choice(NOUNS)} {k}." for k in range(n))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Folder of a tiny decoder with random weights."""
    made = tmp_path_factory.mktemp("models") / "tiny-own"
    tiny.build("llama", made, sentences(60), 7)
    return made


@pytest.fixture(scope="session")
def hidden_feature():
    """(row,) what the recording follows."""
    return np.random.default_rng(1).standard_normal(60)


@pytest.fixture(scope="session")
def recording(hidden_feature):
    """60 sentences in 12 passages; three neuroids follow `hidden_feature`, the others are noise."""
    texts = sentences(60)
    ids, passages = tuple(f"s{k}" for k in range(60)), tuple(f"p{k // 5}" for k in range(60))
    noise = np.random.default_rng(2).standard_normal((60, 6))
    values = noise + np.array([3.0] * 3 + [0.0] * 3) * hidden_feature[:, None]
    responses = Responses(
        values.astype(np.float32), ids, passages, passages, tuple(f"v{k}" for k in range(6)),
        ("a",) * 3 + ("b",) * 3, ("",) * 6, "z",
    )  # fmt: skip
    return Dataset("mine", "", Stimuli(ids, texts, passages), responses)


@pytest.fixture
def in_memory(folder):
    """(model, tokenizer) of `folder`, loaded by transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
