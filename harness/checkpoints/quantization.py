"""What config.json says of quantised weights: the method, how it is loaded, and how many parameters they stand for.

Quantised checkpoints are dequantised while they are loaded wherever transformers can, so that the same numbers come out
on every machine and the precision in the tables is the one that was computed in. The other methods compute with their
own library's layers, and the tables say so. Facts alone: nothing is loaded here.

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

    modules: Python modules that must be there. install: what to give pip. dequantises: whether transformers turns them
    into ordinary weights; else layers of that library compute.
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

# Tensors beside quantised weights that are no parameters: scales, zero points, orders, and what describes them.
_NO_PARAMETER = re.compile(
    r"(^|[._:])(weight_scale(_inv|_2)?|scale_inv|input_scale|activation_scale|output_scale|[kvq]_scale|scale|scales"
    r"|(weight|input)_global_scale|input_scale_ub|weight_zero_point|input_zero_point|zero_point|zeros|qzeros"
    r"|weight_shape|weight_g_idx|g_idx|perm|absmax|quant_map|nested_absmax|nested_quant_map"
    r"|quant_state\.bitsandbytes__\w+|SCB|weight_format)$"
)
_PACKED = re.compile(r"(qweight|weight_packed|_packed)$")


def stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """`quantization_config` of a config.json, its own or its text model's; empty where there is none."""
    text = config.get("text_config")
    found = config.get("quantization_config") or (text.get("quantization_config") if isinstance(text, dict) else None)
    return dict(found) if isinstance(found, Mapping) else {}


def method_of(settings: Mapping[str, Any]) -> str:
    """The method by its name in transformers; "" where weights are not quantised."""
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    return str(settings.get("quant_method") or ("unnamed" if settings else ""))


def bits_of(settings: Mapping[str, Any]) -> int:
    """Bits of a weight, as the settings state them; 0 where they do not."""
    if method_of(settings) == "bitsandbytes":
        return 4 if settings.get("load_in_4bit") else 8
    own = _of_groups(settings, "weights") or settings
    found = next((own[key] for key in ("bits", "w_bit", "num_bits", "nbits") if own.get(key)), 0)
    known = {"fp8": 8, "mxfp8": 8, "fbgemm_fp8": 8, "mxfp4": 4}
    return int(found) if isinstance(found, int) else known.get(method_of(settings), 0)


def _of_groups(settings: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """What the first group of layers that states it says of its weights or activations (compressed-tensors)."""
    groups = settings.get("config_groups")
    found = [group.get(what) for group in groups.values()] if isinstance(groups, Mapping) else []
    return next((one for one in found if isinstance(one, Mapping)), {})


def computed_in(settings: Mapping[str, Any]) -> str:
    """What stays of the quantisation when a model computes, in words; "" where its weights were dequantised.

    Dequantised layers of compressed-tensors still round their inputs where the checkpoint says so.
    """
    method = method_of(settings)
    if method and not METHODS.get(method, QuantizationMethod()).dequantises:
        bits = bits_of(settings)
        return f"{method} {bits}-bit weights" if bits else f"{method} weights"
    inputs = _of_groups(settings, "input_activations")
    return f"{method} {inputs.get('num_bits', 8)}-bit activations" if inputs else ""


def require_loadable(name: str, settings: Mapping[str, Any]) -> QuantizationMethod:
    """How quantised weights are loaded.

    Args:
        name: of the model, for messages.
        settings: of `stated`.

    Raises:
        ValueError: if the method is unknown, or its library is not installed; the message says what to install.
    """
    method = method_of(settings)
    if method not in METHODS:
        raise ValueError(
            f"{name}: its weights are quantised by {method!r}, which is none of {', '.join(METHODS)}; give the "
            "checkpoint before quantisation."
        )
    found = METHODS[method]
    missing = [module for module in found.modules if not _is_there(module)]
    if missing:
        raise ValueError(
            f"{name}: its weights are quantised by {method}, which needs {' and '.join(missing)} (not installed): pip "
            f"install {found.install}, or give the checkpoint before quantisation."
        )
    return found


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package's part, where there is no package
        return False


# --- parameters -------------------------------------------------------------------------------------------------------


def is_part(key: str) -> bool:
    """Whether a tensor is by its name packed quantised weights, or scales and the like beside them."""
    return bool(_NO_PARAMETER.search(key) or _PACKED.search(key))


def n_parameters(tensors: Mapping[str, StoredTensor], settings: Mapping[str, Any]) -> int:
    """Parameters that stored tensors stand for: packed ones by their bits, scales and zero points left out.

    Args:
        tensors: name -> type and shape, masks left out.
        settings: of `stated`; empty where weights are not quantised.
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
    """Parameters that one stored number holds: eight of 4 bits in an int32, two in a byte."""
    if stored.dtype == "I32" and _PACKED.search(key) and bits:
        return 32 // bits
    nibbles = key.endswith("_blocks") or _PACKED.search(key) or f"{key}.absmax" in names
    return 2 if stored.dtype == "U8" and nibbles else 1
