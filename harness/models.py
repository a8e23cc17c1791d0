"""The table of published checkpoints: one entry per model.

The paper's 25 models (8 vanilla, 17 tuned) and the 8 GPT-2s reported beside them (App. A, B and J of arXiv 2312.00575);
sizes are the nominal ones it prints. What a run records is read from the checkpoint itself (harness/checkpoints.py).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A published checkpoint. `hub_id` is empty where it is published only as a difference to its base."""

    name: str
    family: str
    hub_id: str
    tuned_from: str
    tuning_data: str
    n_blocks: int
    n_parameters_nominal: float


_ENTRIES = (
    Entry("t5-small", "t5", "google/t5-v1_1-small", "", "C4", 16, 7.7e+07),
    Entry("flan-t5-small", "t5", "google/flan-t5-small", "t5-small", "FLAN", 16, 7.7e+07),
    Entry("t5-base", "t5", "google/t5-v1_1-base", "", "C4", 24, 2.5e+08),
    Entry("flan-t5-base", "t5", "google/flan-t5-base", "t5-base", "FLAN", 24, 2.5e+08),
    Entry("flan-alpaca-base", "t5", "declare-lab/flan-alpaca-base", "t5-base", "FLAN + Alpaca", 24, 2.5e+08),
    Entry("t5-large", "t5", "google/t5-v1_1-large", "", "C4", 48, 8e+08),
    Entry("flan-t5-large", "t5", "google/flan-t5-large", "t5-large", "FLAN", 48, 8e+08),
    Entry("flan-alpaca-large", "t5", "declare-lab/flan-alpaca-large", "t5-large", "FLAN + Alpaca", 48, 8e+08),
    Entry("t5-xl", "t5", "google/t5-v1_1-xl", "", "C4", 48, 3e+09),
    Entry("flan-t5-xl", "t5", "google/flan-t5-xl", "t5-xl", "FLAN", 48, 3e+09),
    Entry("flan-alpaca-xl", "t5", "declare-lab/flan-alpaca-xl", "t5-xl", "FLAN + Alpaca", 48, 3e+09),
    Entry("flan-gpt4all-xl", "t5", "declare-lab/flan-gpt4all-xl", "t5-xl", "FLAN + GPT4ALL", 48, 3e+09),
    Entry("flan-sharegpt-xl", "t5", "declare-lab/flan-sharegpt-xl", "t5-xl", "FLAN + ShareGPT", 48, 3e+09),
    Entry("flan-alpaca-gpt4-xl", "t5", "declare-lab/flan-alpaca-gpt4-xl", "t5-xl", "FLAN + Alpaca-GPT4", 48, 3e+09),
    Entry("t5-xxl", "t5", "google/t5-v1_1-xxl", "", "C4", 48, 1.1e+10),
    Entry("flan-t5-xxl", "t5", "google/flan-t5-xxl", "t5-xxl", "FLAN", 48, 1.1e+10),
    Entry("flan-alpaca-xxl", "t5", "declare-lab/flan-alpaca-xxl", "t5-xxl", "FLAN + Alpaca", 48, 1.1e+10),
    Entry("llama-7b", "llama", "huggyllama/llama-7b", "", "", 32, 7e+09),
    Entry("alpaca-7b", "llama", "", "llama-7b", "Alpaca 52K", 32, 7e+09),
    Entry("vicuna-7b", "llama", "lmsys/vicuna-7b-v1.3", "llama-7b", "ShareGPT conversations", 32, 7e+09),
    Entry("llama-13b", "llama", "huggyllama/llama-13b", "", "", 40, 1.3e+10),
    Entry("vicuna-13b", "llama", "lmsys/vicuna-13b-v1.3", "llama-13b", "ShareGPT conversations", 40, 1.3e+10),
    Entry("stable-vicuna-13b", "llama", "", "llama-13b", "Vicuna + RLHF", 40, 1.3e+10),
    Entry("llama-33b", "llama", "huggyllama/llama-30b", "", "", 60, 3.3e+10),
    Entry("vicuna-33b", "llama", "lmsys/vicuna-33b-v1.3", "llama-33b", "ShareGPT conversations", 60, 3.3e+10),
    Entry("gpt2-small", "gpt2", "openai-community/gpt2", "", "WebText", 12, 1.24e+08),
    Entry("gpt2-small-alpaca", "gpt2", "vicgalle/gpt2-alpaca", "gpt2-small", "Alpaca", 12, 1.24e+08),
    Entry("gpt2-medium", "gpt2", "openai-community/gpt2-medium", "", "WebText", 24, 3.55e+08),
    Entry("gpt2-medium-alpaca", "gpt2", "linkanjarad/GPT2-Medium-Alpaca-355m", "gpt2-medium", "Alpaca", 24, 3.55e+08),
    Entry("gpt2-large", "gpt2", "openai-community/gpt2-large", "", "WebText", 36, 7.74e+08),
    Entry("gpt2-large-alpaca", "gpt2", "reasonwang/gpt2-large-alpaca", "gpt2-large", "Alpaca", 36, 7.74e+08),
    Entry("gpt2-xl", "gpt2", "openai-community/gpt2-xl", "", "WebText", 48, 1.5e+09),
    Entry("gpt2-xl-alpaca", "gpt2", "Rachneet/gpt2-xl-alpaca", "gpt2-xl", "Alpaca", 48, 1.5e+09),
)  # fmt: skip
MODELS = {entry.name: entry for entry in _ENTRIES}
