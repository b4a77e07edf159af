"""CMA-CLIP once more, slow and plain: loops over images, layers, heads, places and tasks.

Reads the weights of the module under test by their names, and nothing else of it. One image at a
time, only the tokens it has: no padding, no mask.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def predict_slowly(
    state: dict[str, Tensor],
    text: list[Tensor] | None,
    image: list[Tensor] | None,
    *,
    layers: int,
    heads: int,
    tasks: int,
    attention: str,
) -> tuple[list[Tensor], list[list[float]]]:
    """Logits [K] and weights (text, image) of each task, of one image.

    Args:
        state: The module's weights.
        text: Class token, then the other tokens, [D] each; None: no text.
        image: As ``text``.
        layers: Of the sequence-wise attention; 0: it is switched off.
        heads: Its heads.
        tasks: How many.
        attention: Over the modalities.
    """
    sequence, places = [], {}
    for name, tokens, kind in (("text", text, 0), ("image", image, 2)):
        if tokens is None:
            continue
        places[name] = len(sequence)
        for row, token in enumerate(tokens):
            vector = _norm(state, f"{name}_norm", token)
            if layers:
                vector = vector + state["kinds"][kind + min(row, 1)]
            sequence.append(vector)
    for layer in range(layers):
        sequence = _layer(state, f"sequence.layers.{layer}", sequence, heads)
    if layers:
        sequence = [_norm(state, "sequence.norm", vector) for vector in sequence]
    found = {name: sequence[place] for name, place in places.items()}
    logits, weights = [], []
    for task in range(tasks):
        one, shares = _task(state, f"heads.{task}", found, attention)
        logits.append(one)
        weights.append([shares.get("text", 0.0), shares.get("image", 0.0)])
    return logits, weights


def _layer(state: dict[str, Tensor], name: str, sequence: list[Tensor], heads: int) -> list[Any]:
    normed = [_norm(state, f"{name}.attention_norm", vector) for vector in sequence]
    weight, bias = (state[f"{name}.attention.in_proj_{part}"] for part in ("weight", "bias"))
    size = len(sequence[0])
    each = size // heads
    joined: list[list[Tensor]] = [[] for _ in sequence]
    for head in range(heads):
        rows = slice(head * each, (head + 1) * each)
        query, key, value = (
            [weight[start:][rows] @ vector + bias[start:][rows] for vector in normed]
            for start in (0, size, 2 * size)
        )
        for place in range(len(sequence)):
            scores = [float(query[place] @ one) / math.sqrt(each) for one in key]
            shares = _softmax(scores)
            joined[place].append(sum(s * v for s, v in zip(shares, value, strict=True)))
    after = []
    for vector, parts in zip(sequence, joined, strict=True):
        out = _linear(state, f"{name}.attention.out_proj", torch.cat(parts))
        inner = vector + out
        hidden = _linear(state, f"{name}.mlp.0", _norm(state, f"{name}.mlp_norm", inner))
        after.append(inner + _linear(state, f"{name}.mlp.2", _gelu(hidden)))
    return after


def _task(
    state: dict[str, Tensor], name: str, found: dict[str, Tensor], attention: str
) -> tuple[Tensor, dict[str, float]]:
    names = list(found)
    scores = [0.0 for _ in names]
    if attention == "keyless":
        keyless = state[f"{name}.keyless"]
        scores = [float(keyless[("text", "image").index(m)] @ found[m]) for m in names]
    shares = dict(zip(names, _softmax(scores), strict=True))
    if attention == "concatenation":
        nothing = torch.zeros_like(next(iter(found.values())))
        joined = torch.cat([found.get(m, nothing) for m in ("text", "image")])
    else:
        joined = sum((shares[m] * found[m] for m in names), start=torch.tensor(0.0))
    hidden = _gelu(_linear(state, f"{name}.mlp.0", joined))
    return _linear(state, f"{name}.mlp.2", hidden), shares


def _linear(state: dict[str, Tensor], name: str, vector: Tensor) -> Tensor:
    return state[f"{name}.weight"] @ vector + state[f"{name}.bias"]


def _norm(state: dict[str, Tensor], name: str, vector: Tensor) -> Tensor:
    centred = vector - vector.mean()
    scale = torch.sqrt((centred**2).mean() + 1e-5)
    return centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]


def _gelu(vector: Tensor) -> Tensor:
    return vector * 0.5 * (1 + torch.erf(vector / math.sqrt(2)))


def _softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]
