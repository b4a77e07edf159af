"""Linear layers in eight bits, for CPUs.

Weights are rounded once, with a scale for each output. What goes in is rounded as it comes, with a
scale for each row: a token's numbers depend on no other image of the batch, and nothing has to be
calibrated. Only seven bits of an input are used, for older CPUs add two products in sixteen bits.
With x = step q + least, q of 0 to 127:

    W x + b = step (W q) + least (W 1) + b

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigurationError

_INPUT_STEPS = 127
_WEIGHT_STEPS = 127
# What else oneDNN's operation can do: add a bias, round what comes out, apply a function to it.
_FLOAT_PRODUCT: dict[str, Any] = {
    "bias": None,
    "output_scale": 1.0,
    "output_zero_point": 0,
    "output_dtype": torch.float32,
    "post_op_name": "none",
    "post_op_args": [],
    "post_op_algorithm": "",
}
# Rows of one value have no extent.
_LEAST_STEP = 1e-12


class Int8Linear(nn.Module):
    """A linear layer whose products are of eight bits; its inputs and outputs are float32.

    Args:
        linear: The layer, float32, on the CPU.
    """

    # open_clip asks layers in eight bits for what they were before
    int8_original_dtype = torch.float32

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(1).clamp_min(_LEAST_STEP) / _WEIGHT_STEPS
        rounded = (weight / scale[:, None]).round_().to(torch.int8)
        bias = torch.zeros_like(scale) if linear.bias is None else linear.bias.detach().clone()
        self.bias, self.scale = bias, scale
        self.sums = rounded.sum(1, dtype=torch.float32) * scale
        self.offsets = torch.zeros(len(scale), dtype=torch.int32)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O], float32."""
        rows = x.reshape(-1, x.shape[-1])
        least = rows.amin(-1, keepdim=True)
        step = (rows.amax(-1, keepdim=True) - least).div_(_INPUT_STEPS).clamp_min_(_LEAST_STEP)
        # half a step added, then cut: rounded
        rounded = rows.sub(least).div_(step).add_(0.5).to(torch.int8).view(torch.uint8)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, 0, self.packed, self.scale, self.offsets, **_FLOAT_PRODUCT
        )
        torch.addcmul(self.bias, product, step, out=product)
        return product.addcmul_(least, self.sums).view(*x.shape[:-1], -1)


@torch.inference_mode()
def quantize_linears(tower: nn.Module, device: torch.device, example: Tensor) -> None:
    """Round the linear layers of a tower to eight bits, in place.

    Args:
        tower: float32, in eval mode.
        device: Where it is.
        example: What it takes: it is computed once, to see that it still can be.

    Raises:
        ConfigurationError: It is not on a CPU, the CPU's library is missing, there is no linear
            layer in it, or something reads the weights of one.
    """
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if device.type != "cpu" or not has_onednn:
        raise ConfigurationError(
            "int8 is for CPUs, by oneDNN",
            where="model.precision",
            got=f"int8 on {device}",
            todo="use bf16 or fp16 on a GPU, fp32 on other CPUs",
        )
    replaced = _replace_linears(tower)
    try:
        tower(example)
    except (AttributeError, TypeError):
        replaced = 0
    if not replaced:
        raise ConfigurationError(
            "this image tower cannot be computed in eight bits",
            where="model.precision",
            expected="a vision transformer",
            got=type(tower).__name__,
            todo="use fp32",
        )


def _replace_linears(module: nn.Module) -> int:
    replaced = 0
    for name, child in module.named_children():
        # by exact type: PyTorch's attention reads the weights of its own kind
        if type(child) is nn.Linear:
            setattr(module, name, Int8Linear(child))
            replaced += 1
        else:
            replaced += _replace_linears(child)
    return replaced
