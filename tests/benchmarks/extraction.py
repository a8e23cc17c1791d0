"""One pass over a story against encoding the text so far again for every word; the machine's rate; growth.

Encoding the growing context is what Brain-Score 2023 does: for the state at a word, the text from its beginning to that
word goes through the model. Here it is re-stated with the same model and the same tokens, so that only the number of
tokens differs. The story is the first of Natural Stories where the shared data are, else made-up sentences.
"""

from __future__ import annotations

import csv
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import timed

from harness.checkpoints import checkpoints
from harness.datasets import synthetic
from harness.extraction import with_transformers
from harness.loading import loaded_model
from harness.models import tiny
from harness.records import ExtractionSettings, Layer, Stimuli, Tokens
from harness.text import contexts, tokens

SHARED = Path(os.environ.get("HARNESS_SHARED", Path(__file__).resolve().parents[3] / "shared"))
# A Llama of some 50 million parameters, and what is varied for the growth: one at a time.
SIZES = {"width": 640, "layers": 10}
SMALL = {"width": 64, "layers": 3}
_SETTINGS = ExtractionSettings(4096)


def story(n_words: int | None = None) -> Stimuli:
    """The words of a story, with its name as passage."""
    file = SHARED / "data" / "naturalstories" / "futrell2018_word_targets.tsv"
    if file.is_file():
        with file.open(encoding="utf-8") as stream:
            words = [row["word"] for row in csv.DictReader(stream, delimiter="\t") if row["story_id"] == "1"]
        name = "natural-stories-1"
    else:
        words, name = list(synthetic.words(synthetic.stimuli()).texts)[:1000], "made-up"
    words = words[:n_words]
    return Stimuli(tuple(map(str, range(len(words)))), tuple(words), (name,) * len(words))


def model_of(
    width: int, layers: int, text: Stimuli, device: str = "cpu", dtype: Any = "float32"
) -> loaded_model.LoadedModel:
    """A random Llama of a size, saved and loaded as a real checkpoint."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        path = tiny.build("llama", Path(folder) / "model", text.texts, 0)
        vocabulary = checkpoints.resolve(str(path)).vocabulary
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=11 * width // 4, num_hidden_layers=layers,
            num_attention_heads=max(1, width // 64), max_position_embeddings=4096, bos_token_id=0, eos_token_id=1,
            pad_token_id=2,
        )  # fmt: skip
        with torch.device(device):
            made = LlamaForCausalLM(config)
        made.eval().save_pretrained(path, safe_serialization=True)
        return loaded_model.load(checkpoints.resolve(str(path)), device, dtype=dtype)


def one_pass(n_words: int | None, every: int, repeats: int, sizes: dict[str, int]) -> dict[str, Any]:
    """Both ways for the words of a story, or the first of them, on the processor in float32; see `compare`."""
    text = story(n_words)
    return {"said": compare(model_of(**sizes, text=text), text, every, repeats, 1e-4)}


def compare(model: loaded_model.LoadedModel, text: Stimuli, every: int, repeats: int, allowed: float) -> dict[str, Any]:
    """Both ways, in turn, for the states of all layers at the words of a text; gate: they are equal.

    Args:
        model: a decoder.
        text: of one passage.
        every: of the growing context every so many words are timed, and the seconds multiplied.
        repeats: how often.
        allowed: difference of two states, of the largest of their layer.

    Returns:
        workload; ours and theirs, seconds; ratios, of each pair; passed; and of our pass n_tokens and flops.
    """
    read = model.encode(contexts.build(text, "passage")[0])
    at = np.arange(every - 1, len(text), every)
    _ours(model, read)
    worst, pairs = 0.0, []
    for _ in range(repeats):
        ours_s, ours = timed(_ours, model, read)
        theirs_s, theirs = timed(_growing, model, read, at)
        pairs.append((ours_s, every * theirs_s))
        for layer, states in theirs.items():
            worst = max(worst, float(np.abs(ours[layer][at] - states).max() / np.abs(states).max()))
    size = sum(weights.numel() for weights in model.model.parameters())
    seconds = [statistics.median(each) for each in zip(*pairs, strict=True)]
    return {
        "workload": f"{text.passages[0]}, {len(text)} words, {size / 1e6:.0f}M", "n_tokens": len(read.ids) + 1,
        "ours": seconds[0], "theirs": seconds[1], "ratios": [b / a for a, b in pairs], "worst": worst,
        "passed": worst < allowed, "flops": _flops(model, len(read.ids) + 1),
    }  # fmt: skip


def growth(axis: str, points: list[int], sizes: dict[str, int]) -> dict[str, Any]:
    """Seconds of one pass, states and log-probabilities, at each point of an axis: tokens, width or layers."""
    text, seconds, flops = story(), [], []
    for point in points:
        changed = sizes if axis == "tokens" else {**sizes, axis: point}
        model = model_of(**changed, text=text)
        read = tokens.encode(contexts.build(text, "passage")[0], model.tokenizer)
        n = min(len(read.ids), point if axis == "tokens" else 512)
        part = Tokens(read.ids[:n], np.arange(n), np.arange(n), tuple(map(str, range(n))))  # each token a stimulus
        with_transformers.extract(model, [part], _SETTINGS)
        seconds.append(min(timed(with_transformers.extract, model, [part], _SETTINGS)[0] for _ in range(3)))
        flops.append(_flops(model, n + 1))
    return {"said": {"points": points, "seconds": seconds, "flops": flops}}


def many(model: loaded_model.LoadedModel, text: Stimuli, copies: int) -> float:
    """Tokens a second, states and what is expected, of a text given so many times over; the best of three."""
    names = [f"copy {k}" for k in range(copies) for _ in text.texts]
    stimuli = Stimuli(tuple(map(str, range(len(names)))), text.texts * copies, tuple(names))
    texts = [model.encode(context) for context in contexts.build(stimuli, "passage")]
    with_transformers.extract(model, texts, _SETTINGS)
    seconds = min(timed(with_transformers.extract, model, texts, _SETTINGS)[0] for _ in range(3))
    return sum(len(read.ids) + 1 for read in texts) / seconds


def _flops(model: loaded_model.LoadedModel, n: int) -> float:
    """Two operations a parameter and token, the embeddings' table left out and the head counted; and attention's."""
    config = model.model.config
    weights = sum(part.numel() for part in model.model.parameters()) - model.model.get_input_embeddings().weight.numel()
    return 2.0 * weights * n + 4.0 * config.num_hidden_layers * config.hidden_size * n * n


def _ours(model: Any, read: Any) -> dict[Layer, np.ndarray]:
    """Layer -> (word, hidden)."""
    return dict(with_transformers.extract(model, [read], _SETTINGS).features.values)


def _growing(model: Any, read: Any, at: np.ndarray) -> dict[Layer, np.ndarray]:
    """The text so far, from its first token, for each of the words; every layer's state at its last token."""
    kept: dict[Layer, list[np.ndarray]] = {}
    states: list[np.ndarray] = []
    blocks = model.model.base_model.layers

    def keep(hidden: torch.Tensor) -> None:
        states.append(hidden[0, -1].float().cpu().numpy())

    handles = [blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: keep(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )]  # fmt: skip
    handles += [
        block.register_forward_hook(lambda _, __, out: keep(out[0] if isinstance(out, tuple) else out))
        for block in blocks
    ]
    with torch.inference_mode():
        for end in read.last[at]:
            states.clear()
            ids = [*model.prefix, *read.ids[: end + 1]]
            model.model.base_model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
            for index, state in enumerate(states):
                kept.setdefault(Layer("decoder", index), []).append(state)
    for handle in handles:
        handle.remove()
    return {layer: np.stack(found) for layer, found in kept.items()}
