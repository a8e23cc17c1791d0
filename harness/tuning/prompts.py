"""The text that a model reads before its response, with and without the instruction.

The first form is Stanford Alpaca's. The arm without instructions has the same examples with the instruction field
removed (Aw et al. 2023, section 4.1). The paper does not print the text that remains; here the section "Instruction"
and the sentence that announces it are removed, so that nothing of the prompt tells what to do.

Source: PROMPT_DICT of train.py, github.com/tatsu-lab/stanford_alpaca (commit 761dc5bf, Apache 2.0).
"""

from __future__ import annotations

from typing import Literal, get_args

from harness.tuning.examples import Example

Arm = Literal["with instructions", "without instructions"]
ARMS: tuple[Arm, ...] = get_args(Arm)

# (arm, whether the example has an input) -> template. The response follows the colon directly.
TEMPLATES: dict[tuple[Arm, bool], str] = {
    ("with instructions", True): (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    ),
    ("with instructions", False): (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Response:"
    ),
    ("without instructions", True): "### Input:\n{input}\n\n### Response:",
    ("without instructions", False): "### Response:",
}


def prompt(example: Example, arm: Arm) -> str:
    """Return the text before the response of an example."""
    template = TEMPLATES[arm, example.input != ""]
    return template.format(instruction=example.instruction, input=example.input)
