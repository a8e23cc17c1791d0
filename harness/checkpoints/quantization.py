"""Quantised checkpoints: method, how it is loaded, and how many parameters the stored weights stand for.

Quantised checkpoints are dequantised during loading wherever transformers can do so. The results are then the same on
every machine, and the precision in the tables is the one used for computing. The other methods compute with layers of
their own library, which the tables state. Everything here is read from config.json and headers; no weights are loaded.

Source: transformers 5.19, src/transformers/quantizers and utils/quantization_config.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from harness.checkpoints.safetensors_file import StoredTensor


@dataclass(frozen=True)
class QuantizationMethod:
    """How weights of one quantisation method are loaded.

    Attributes:
        modules: Python modules that must be installed.
        install: argument for `pip install`.
        dequantises: whether transformers converts them to ordinary weights; otherwise the library's layers compute.
    """

    modules: tuple[str, ...] = ()
    install: str = ""
    dequantises: bool = False


_EXTRA = "'brain-alignment-harness[{}]'"
METHODS: dict[str, QuantizationMethod] = {
    "fp8": QuantizationMethod(dequantises=True),
    "mxfp8": QuantizationMethod(dequantises=True),
    "mxfp4": QuantizationMethod(dequantises=True),
    "compressed-tensors": QuantizationMethod(("compressed_tensors",), _EXTRA.format("compressed"), dequantises=True),
    "bitsandbytes": QuantizationMethod(("bitsandbytes",), _EXTRA.format("int8"), dequantises=True),
    "gptq": QuantizationMethod(("gptqmodel", "optimum"), _EXTRA.format("gptq")),
    "awq": QuantizationMethod(("gptqmodel",), _EXTRA.format("gptq")),
    "torchao": QuantizationMethod(("torchao",), "torchao"),
    "fbgemm_fp8": QuantizationMethod(("fbgemm_gpu",), "fbgemm-gpu-genai"),
    "auto-round": QuantizationMethod(("auto_round",), "auto-round"),
    "aqlm": QuantizationMethod(("aqlm",), "'aqlm[gpu,cpu]'"),
    "quanto": QuantizationMethod(("optimum.quanto",), "optimum-quanto"),
    "hqq": QuantizationMethod(("hqq",), "hqq"),
    "vptq": QuantizationMethod(("vptq",), "vptq"),
    "spqr": QuantizationMethod(("spqr_quant",), "'spqr_quant[gpu]'"),
    "quark": QuantizationMethod(("quark",), "amd-quark"),
    "eetq": QuantizationMethod(("eetq",), "eetq"),
    "higgs": QuantizationMethod(("flute",), "flute-kernel"),
    "fp_quant": QuantizationMethod(("fp_quant",), "fp_quant"),
    "sinq": QuantizationMethod(("sinq",), "sinq"),
    "bitnet": QuantizationMethod(),
}

# Tensors stored beside quantised weights that are not parameters: scales, zero points, permutations, metadata.
_NO_PARAMETER = re.compile(
    r"(^|[._:])(weight_scale(_inv|_2)?|scale_inv|input_scale|activation_scale|output_scale|[kvq]_scale|scale|scales"
    r"|(weight|input)_global_scale|input_scale_ub|weight_zero_point|input_zero_point|zero_point|zeros|qzeros"
    r"|weight_shape|weight_g_idx|g_idx|perm|absmax|quant_map|nested_absmax|nested_quant_map"
    r"|quant_state\.bitsandbytes__\w+|SCB|weight_format)$"
)
_PACKED = re.compile(r"(qweight|weight_packed|_packed)$")


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `quantization_config` from a config.json or from its text model; empty if there is none."""
    text = config.get("text_config")
    value = config.get("quantization_config") or (text.get("quantization_config") if isinstance(text, dict) else None)
    return dict(value) if isinstance(value, Mapping) else {}


def method_of(settings: Mapping[str, Any]) -> str:
    """Return transformers' name of the quantisation method; "" if the weights are not quantised."""
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    return str(settings.get("quant_method") or ("unnamed" if settings else ""))


def bits_of(settings: Mapping[str, Any]) -> int:
    """Return bits per weight as stated in the settings; 0 if not stated."""
    if method_of(settings) == "bitsandbytes":
        return 4 if settings.get("load_in_4bit") else 8
    stated_for = _first_group(settings, "weights") or settings
    bits = next((stated_for[key] for key in ("bits", "w_bit", "num_bits", "nbits") if stated_for.get(key)), 0)
    by_method = {"fp8": 8, "mxfp8": 8, "fbgemm_fp8": 8, "mxfp4": 4}
    return int(bits) if isinstance(bits, int) else by_method.get(method_of(settings), 0)


def _first_group(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the settings for weights or activations from the first layer group that has them (compressed-tensors)."""
    groups = settings.get("config_groups")
    stated_settings = [group.get(key) for group in groups.values()] if isinstance(groups, Mapping) else []
    return next((stated for stated in stated_settings if isinstance(stated, Mapping)), {})


def remaining_quantization(settings: Mapping[str, Any]) -> str:
    """Describe what remains quantised while the model computes; "" if its weights were dequantised.

    Dequantised layers of compressed-tensors still round their inputs if the checkpoint says so.
    """
    method = method_of(settings)
    if method and not METHODS.get(method, QuantizationMethod()).dequantises:
        bits = bits_of(settings)
        return f"{method} {bits}-bit weights" if bits else f"{method} weights"
    inputs = _first_group(settings, "input_activations")
    return f"{method} {inputs.get('num_bits', 8)}-bit activations" if inputs else ""


def require_loadable(name: str, settings: Mapping[str, Any]) -> QuantizationMethod:
    """Return how a checkpoint's quantised weights are loaded.

    Args:
        name: model name, for error messages.
        settings: result of `stated`.

    Raises:
        ValueError: if the method is unknown or its library is not installed; the message says what to install.
    """
    method = method_of(settings)
    if method not in METHODS:
        raise ValueError(
            f"{name}: its weights are quantised by {method!r}, which is none of {', '.join(METHODS)}; use the "
            "checkpoint before quantisation."
        )
    how = METHODS[method]
    missing = [module for module in how.modules if not _is_there(module)]
    if missing:
        raise ValueError(
            f"{name}: its weights are quantised by {method}, which needs {' and '.join(missing)} (not installed): pip "
            f"install {how.install}, or use the checkpoint before quantisation."
        )
    return how


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # submodule of a package that is not installed
        return False


# --- parameters -------------------------------------------------------------------------------------------------------


def is_part(key: str) -> bool:
    """Return whether a tensor's name marks packed quantised weights, scales or similar data."""
    return bool(_NO_PARAMETER.search(key) or _PACKED.search(key))


def n_parameters(tensors: Mapping[str, StoredTensor], settings: Mapping[str, Any]) -> int:
    """Count the parameters that stored tensors stand for: packed ones by their bits; scales and zero points excluded.

    Args:
        tensors: name -> type and shape, without masks.
        settings: result of `stated`; empty if the weights are not quantised.
    """
    if not settings:
        return sum(stored.n_numbers for stored in tensors.values())
    names = set(tensors)
    bits = bits_of(settings)
    return sum(
        stored.n_numbers * _numbers_in_one(key, stored, names, bits)
        for key, stored in tensors.items()
        if not _NO_PARAMETER.search(key) and not key.endswith("_scales")
    )


def _numbers_in_one(key: str, stored: StoredTensor, names: set[str], bits: int) -> int:
    """Return how many parameters one stored number holds: eight of 4 bits in an int32, two in a byte."""
    if stored.dtype == "I32" and _PACKED.search(key) and bits:
        return 32 // bits
    is_4_bit = key.endswith("_blocks") or _PACKED.search(key) or f"{key}.absmax" in names
    return 2 if stored.dtype == "U8" and is_4_bit else 1
