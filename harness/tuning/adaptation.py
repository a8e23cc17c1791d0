"""Choose what is trained: all weights, or LoRA adapters on frozen ones (PEFT)."""

from __future__ import annotations

from typing import Any

import torch

from harness.tuning.recipe import Lora


def adapt(model: Any, lora: Lora | None, seed: int, name: str) -> Any:
    """Return the model in training mode, with adapters if asked for.

    Args:
        model: the base, a transformers model.
        lora: settings of the adapters; None trains all weights.
        seed: of the adapters' initial weights, which are equal in both arms.
        name: name of the base, for messages.

    Raises:
        ValueError: if the layers to adapt are not in the model.
    """
    if lora is None:
        model.requires_grad_(True)
        return model.train()
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    targets: Any = list(lora.targets) or None
    if targets == ["all-linear"]:
        targets = "all-linear"
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=lora.dropout, task_type="CAUSAL_LM"
    )
    try:
        return get_peft_model(model, config).train()
    except ValueError as error:
        raise ValueError(
            f"{name}: no adapters can be added ({str(error).strip().splitlines()[0]}); name layers of the model with "
            "--lora-targets, such as q_proj,v_proj, or all-linear."
        ) from error


def trained(model: Any) -> dict[str, Any]:
    """Name -> parameter that is trained, each once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
