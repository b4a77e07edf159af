"""What is asked of an image: three attributes; the scene's labels are for the towers alone."""

from __future__ import annotations

from pipeline.synthetic.vocabulary import ATTRIBUTES, make_taxonomy
from pipeline.taxonomy import Taxonomy, parse_taxonomy

TOLD_BY = {"text": "room_type", "image": "wall_colour"}
"""The attribute that a modality alone tells."""


def make_tasks() -> Taxonomy:
    """The attributes, one label to an image each, and last the scene's labels."""
    return parse_taxonomy({"tasks": [*_make_attributes(), *make_taxonomy()["tasks"]]})


def make_attributes() -> Taxonomy:
    """The attributes alone: the first columns of :func:`make_tasks`."""
    return parse_taxonomy({"tasks": _make_attributes()})


def _make_attributes() -> list[dict[str, object]]:
    return [
        {"id": task, "kind": "single_label", "labels": [{"id": value} for value in values]}
        for task, values in ATTRIBUTES.items()
    ]
