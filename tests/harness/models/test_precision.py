"""Precision depends on the model alone."""

from typing import get_args

import pytest

from harness.models import precision
from harness.protocol import Dtype


@pytest.mark.parametrize(("n_parameters", "dtype"), [
    (7.7e7, "float32"), (2.85e9, "float32"), (3e9, "float32"), (3.2e9, "bfloat16"), (7e10, "bfloat16"), (0, "float32"),
])  # fmt: skip
@pytest.mark.parametrize(("family", "stack"), [("t5", "encoder-decoder"), ("llama", "decoder"), ("bert", "encoder")])
def test_small_models_run_in_float32_and_large_ones_in_bfloat16(family, stack, n_parameters, dtype):
    assert precision.dtype_of(family, stack, n_parameters) == dtype


@pytest.mark.parametrize("family", ["t5", "umt5", "gemma2", "gemma3_text"])
def test_error_for_float16_in_a_family_that_overflows_cites_a_source(family):
    with pytest.raises(ValueError, match=rf"'{family}' .*65504.*(issue|pull request) \d+.*Use bfloat16"):
        precision.dtype_of(family, "decoder", 1e9, "float16")
    assert precision.dtype_of(family, "decoder", 1e9, "bfloat16") == "bfloat16"


def test_a_requested_precision_is_used_for_any_size():
    assert [precision.dtype_of("llama", "decoder", 7e10, asked) for asked in get_args(Dtype)] == list(get_args(Dtype))


def test_error_for_an_unknown_precision_lists_the_known_ones():
    with pytest.raises(ValueError, match="'fp8' is none of auto, float32, bfloat16, float16, int8"):
        precision.dtype_of("llama", "decoder", 1e9, "fp8")


def test_no_rule_chooses_float16():
    sizes = (0, 1e6, precision.FLOAT32_PARAMETERS, 3.1e9, 1e12, float("inf"))
    assert {precision.dtype_of("t5", "encoder-decoder", size) for size in sizes} == {"float32", "bfloat16"}
