"""The demo's catalogue: what is drawn, and where its manifests lie."""

from __future__ import annotations

from pathlib import Path

from demo.layout import Layout
from pipeline.synthetic import CatalogueSpec, write_catalogue

IMAGES = 4000
"""Of these 3,000 to train on, 280 to validate with, and 720 that the nights bring."""

_SEED = 0


def make_catalogue(
    layout: Layout, *, images: int = IMAGES, processes: int
) -> tuple[Path, Path, Path]:
    """Draw the catalogue.

    Args:
        layout: The manifests go to ``manifests``, all else to ``catalogue``.
        images: Images to draw; the changed ones of night 2 come on top.
        processes: Processes that draw.

    Returns:
        The manifests of night 1, 2 and 3.
    """
    spec = CatalogueSpec(images=images, seed=_SEED, validation_share=0.07, test_share=0.18)
    made = write_catalogue(layout.catalogue, spec, processes=processes)
    layout.manifests.mkdir()
    for manifest in (made.labelled, *made.nights):
        manifest.rename(layout.manifests / manifest.name)
    first, second, third = (layout.manifests / night.name for night in made.nights)
    return first, second, third
