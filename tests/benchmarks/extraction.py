"""One pass over a story against encoding the text so far again for every word."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import checkpoints, contexts, extract, reader, tiny, tokens
from harness.datasets import synthetic
from harness.records import Layer, Stimuli


def one_pass(n_words: int, repeats: int) -> dict[str, Any]:
    """Seconds of both, in turn, for the states at every word of a story; gate: the states are equal to 1e-4.

    Returns:
        said: ours and theirs, seconds; ratios, of each pair; passed.
    """
    words = synthetic.words(synthetic.stimuli())
    story = Stimuli(words.ids[:n_words], words.texts[:n_words], ("story",) * n_words)
    with tempfile.TemporaryDirectory() as folder:
        model = reader.load(checkpoints.resolve(str(tiny.build("llama", Path(folder) / "tiny", story.texts, 0))))
    read = tokens.encode(contexts.build(story, "passage")[0], model.tokenizer)
    fits = read.last + len(model.prefix) < model.limit  # beyond it the two read other contexts
    passed = bool(np.allclose(_ours(model, read)[fits], _growing(model, read)[fits], atol=1e-4))
    pairs = [(_seconds(_ours, model, read), _seconds(_growing, model, read)) for _ in range(repeats)]
    ours, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
    return {"said": {"ours": ours, "theirs": theirs, "ratios": [b / a for a, b in pairs], "passed": passed}}


def _ours(model: Any, read: Any) -> np.ndarray:
    """(word, hidden) of the last layer."""
    states = extract.extract(model, [read], log_probabilities=False).features
    return states.values[Layer("decoder", tiny.BLOCKS)]


def _growing(model: Any, read: Any) -> np.ndarray:
    """As Brain-Score 2023 does: the text so far, from its first token (or the last that fit), for every word."""
    kept = []
    handle = model.model.base_model.layers[-1].register_forward_hook(
        lambda _, __, out: kept.append((out[0] if isinstance(out, tuple) else out)[0, -1].numpy())
    )
    with torch.inference_mode():
        for end in read.last:
            ids = [*model.prefix, *read.ids[: end + 1]][-model.limit :]
            model.model.base_model(input_ids=torch.tensor([ids]), use_cache=False)
    handle.remove()
    return np.stack(kept)


def _seconds(call: Any, *arguments: Any) -> float:
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started
