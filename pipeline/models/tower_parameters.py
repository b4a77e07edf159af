"""Which parameters of an open_clip model belong to which tower."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def image_parameters(clip: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of the image tower."""
    return ((n, p) for n, p in clip.named_parameters() if n.startswith("visual."))


def text_parameters(clip: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of the text tower."""
    return (
        (n, p)
        for n, p in clip.named_parameters()
        if not n.startswith("visual.") and not _is_unused(n)
    )


def freeze_unused(clip: nn.Module) -> None:
    """Freeze what neither tower reads: open_clip's logit scale and bias, a caption decoder."""
    for name, parameter in clip.named_parameters():
        if _is_unused(name):
            parameter.requires_grad_(False)


def _is_unused(name: str) -> bool:
    return name in ("logit_scale", "logit_bias") or name.startswith("text_decoder.")
