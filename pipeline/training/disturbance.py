"""Companions taken away or spoilt while training, so that a model learns when to trust which.

Ours: nothing is known of how CMA-CLIP was trained. Without it no example ever shows that a text
may be another image's, and weights of modalities have no reason to learn it.

Shapes: B images of a batch; CH CW of the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.config import DisturbanceConfig
from pipeline.training.texts import Companions

_LEVELS = 256


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """What happens to the modalities of a batch.

    Attributes:
        text_of: [B] int64, the image whose text each one gets; its own where it is left alone.
        image_of: [B] int64, the image whose pixels each one gets.
        without_text: [B] bool, the text is taken away.
        without_image: [B] bool, the image is taken away; never both are.
        noisy: [B] bool, the pixels are noise.
        seed: Of the noise.
    """

    text_of: Tensor
    image_of: Tensor
    without_text: Tensor
    without_image: Tensor
    noisy: Tensor
    seed: int


def draw_disturbance(
    count: int, config: DisturbanceConfig, generator: torch.Generator
) -> Disturbance:
    """Draw what happens to each of some images.

    Of one image at most one modality is touched: a label that neither tells teaches nothing. Where
    both are drawn, a coin says which one is left alone, so each is touched a little less often
    than its shares say.

    Args:
        count: Images of the batch.
        config: The shares.
        generator: On the CPU, so that every device sees the same.
    """

    def chosen(share: float) -> Tensor:
        return torch.rand(count, generator=generator) < share

    own = torch.arange(count)
    text_dropped, text_swapped = chosen(config.text_dropout), chosen(config.text_swap)
    image_dropped, image_swapped = chosen(config.image_dropout), chosen(config.image_swap)
    noisy, spare_text = chosen(config.image_noise), chosen(0.5)
    both = (text_dropped | text_swapped) & (image_dropped | image_swapped | noisy)
    text_touchable, image_touchable = ~(both & spare_text), ~(both & ~spare_text)
    return Disturbance(
        text_of=torch.where(text_swapped & text_touchable, _shift(count, generator), own),
        image_of=torch.where(image_swapped & image_touchable, _shift(count, generator), own),
        without_text=text_dropped & text_touchable,
        without_image=image_dropped & image_touchable,
        noisy=noisy & image_touchable,
        seed=int(torch.randint(2**62, (1,), generator=generator)),
    )


def disturb(
    pixels: Tensor, companions: Companions, disturbance: Disturbance
) -> tuple[Tensor, Companions]:
    """The pixels and texts that a model is shown in place of a batch's own.

    An image without any text keeps its picture whatever was drawn.

    Args:
        pixels: [B, CH, CW, 3] uint8.
        companions: Of the same images.
        disturbance: Of :func:`draw_disturbance`.
    """
    has_text = companions.has_text[disturbance.text_of] & ~disturbance.without_text
    image_of = torch.where(has_text, disturbance.image_of, torch.arange(len(pixels)))
    noisy = disturbance.noisy & has_text
    shown = pixels[image_of]
    if noisy.any():
        generator = torch.Generator().manual_seed(disturbance.seed)
        size = (int(noisy.sum()), *pixels.shape[1:])
        shown[noisy] = torch.randint(_LEVELS, size, generator=generator, dtype=torch.uint8)
    return shown, replace(
        companions,
        tokens=companions.tokens[disturbance.text_of],
        has_text=has_text,
        has_image=~disturbance.without_image | ~has_text,
    )


def _shift(count: int, generator: torch.Generator) -> Tensor:
    """Another image for each: all are moved on by one distance, [count] int64."""
    distance = int(torch.randint(1, max(2, count), (1,), generator=generator))
    return (torch.arange(count) + distance) % count
