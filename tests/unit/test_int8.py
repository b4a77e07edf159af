"""Linear layers in eight bits: close to the real ones, and no row knows of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make_bundle
from torch import Tensor, nn

from pipeline.errors import ConfigurationError
from pipeline.models.int8 import Int8Linear, quantize_linears
from pipeline.models.serving import load_predictor


def make_linear(inputs: int = 64, outputs: int = 48, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias)


def correlation(ours: Tensor, theirs: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1])


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 64), (2, 7, 64), (1, 64), (64,)])
def test_a_layer_in_eight_bits_is_close_to_the_real_one(shape: tuple[int, ...], bias: bool) -> None:
    linear = make_linear(bias=bias)
    x = 3 * torch.randn(shape) + 1
    ours, theirs = Int8Linear(linear)(x), linear(x)
    assert ours.shape == theirs.shape
    assert ours.dtype == torch.float32
    assert correlation(ours, theirs) > 0.999


@torch.inference_mode()
def test_no_row_knows_of_another() -> None:
    layer = Int8Linear(make_linear())
    x = torch.randn(6, 64)
    alone = layer(x[2:3])
    x[0] *= 1e4
    torch.testing.assert_close(layer(x)[2:3], alone, atol=1e-6, rtol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize(
    "row",
    [
        torch.zeros(64),
        torch.full((64,), -2.5),
        torch.full((64,), 1e30),
        torch.linspace(0, 1e-30, 64),
        1e3 + torch.linspace(0, 1e-2, 64),
    ],
    ids=["zeros", "one value", "huge", "tiny", "small differences"],
)
def test_rows_without_extent_lose_nothing(row: Tensor) -> None:
    linear = make_linear()
    ours, theirs = Int8Linear(linear)(row), linear(row)
    assert ours.isfinite().all()
    # of the weights alone: half a step of 127
    allowed = float(row.abs().sum() * linear.weight.abs().max()) / 127 + 1e-6
    assert (ours - theirs).abs().max() <= allowed


@torch.inference_mode()
def test_sums_of_the_largest_products_are_exact() -> None:
    linear = nn.Linear(4096, 8, bias=False)
    nn.init.constant_(linear.weight, 1.0)
    row = torch.full((1, 4096), 127.0)
    row[0, 0] = 0.0
    torch.testing.assert_close(Int8Linear(linear)(row), linear(row), rtol=1e-5, atol=0)


@torch.inference_mode()
def test_what_is_no_number_stays_none() -> None:
    row = torch.randn(3, 64)
    row[1, 5] = torch.nan
    found = Int8Linear(make_linear())(row).isnan()
    assert found.any(dim=1).tolist() == [False, True, False]


def test_what_holds_no_linear_layer_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected a vision transformer; got Conv2d"):
        quantize_linears(nn.Conv2d(3, 4, 1), torch.device("cpu"), torch.zeros(1, 3, 8, 8))


def test_a_tower_whose_weights_are_read_elsewhere_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, "resnet")  # its attention pool takes weights out of layers
    with pytest.raises(ConfigurationError, match=r"expected a vision .* got Modified"):
        load_predictor(bundle, device="cpu", precision="int8", scaled_decoding=True)


def test_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="got int8 on cuda:0"):
        quantize_linears(make_linear(), torch.device("cuda:0"), torch.zeros(1, 64))


@pytest.mark.parametrize("kind", ["vit", "siglip"])
def test_a_batch_of_one_equals_a_batch_of_many(tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {"device": "cpu", "scaled_decoding": True}
    bundle = make_bundle(tmp_path, kind)
    eight = load_predictor(bundle, precision="int8", **options)
    full = load_predictor(bundle, precision="fp32", **options)
    assert eight.model_version != full.model_version
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    many, wanted = eight.predict(pixels).embeddings, full.predict(pixels).embeddings
    assert many is not None
    assert wanted is not None
    for number in range(len(pixels)):
        (alone,) = eight.predict(pixels[number : number + 1]).embeddings
        np.testing.assert_allclose(alone, many[number], atol=1e-5)
    assert (many * wanted).sum(axis=1).min() > 0.999
    assert np.abs(many - wanted).max() > 1e-5
