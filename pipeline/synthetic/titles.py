"""Titles and attributes of drawn scenes.

What tells which attribute: ``wall_colour`` only the picture; ``room_type`` only the title; ``view``
the picture where it shows one, else only the title. The objects a title names are mostly in the
picture; in a wrong title they are not.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from pipeline.synthetic.colours import chance
from pipeline.synthetic.scenes import Kind, Scene
from pipeline.synthetic.views import VIEWS, View
from pipeline.synthetic.vocabulary import LABELS, ROOM_TYPES

_HOTELS = (
    "Hotel Miramar",
    "Seaside Inn",
    "Alpenhof",
    "The Grand Plaza",
    "Casa Verde",
    "Poolside Palace",
    "Riverside Lodge",
    "Pension Edelweiss",
    "City Lights Hotel",
    "Villa Aurora",
)
_PLACES: dict[Kind, tuple[str, ...]] = {
    "bedroom": ("room", "bedroom", "guest room"),
    "bathroom": ("room", "room, bathroom", "room: the bath"),
    "balcony": ("room, outside", "room with some fresh air", "room"),
    "pool": ("Swim and rest", "Summer days", "Outdoor area", "Our wellness area"),
    "lounge": ("Lobby", "Lounge", "Reading corner", "Where guests meet"),
    "restaurant": ("Restaurant", "Breakfast room", "Evenings"),
    "leisure": ("Leisure", "For rainy days", "Activities"),
}
_WITH_ROOM_TYPE: frozenset[Kind] = frozenset(("bedroom", "bathroom", "balcony"))
_VIEW_LABELS = {f"{view}_view" for view in VIEWS}
# Shares of images: a title names the view that the picture shows, or one that it does not show.
_VIEW_NAMED = 0.4
_VIEW_UNSEEN = 0.35


@dataclass(frozen=True)
class Caption:
    """What stands beside a picture.

    Attributes:
        title: One line.
        attributes: True values of the attributes that apply.
    """

    title: str
    attributes: dict[str, str]


def make_caption(rng: random.Random, scene: Scene, *, wrong_title_rate: float) -> Caption:
    """Writes a title and the attributes of a scene.

    Args:
        rng: All that is random comes from it.
        scene: The scene.
        wrong_title_rate: Share of titles that name objects the picture does not show.
    """
    attributes: dict[str, str] = {}
    if scene.wall_colour is not None:
        attributes["wall_colour"] = scene.wall_colour
    place = rng.choice(_PLACES[scene.kind])
    if scene.kind in _WITH_ROOM_TYPE:
        attributes["room_type"] = rng.choice(ROOM_TYPES)
        room_type = attributes["room_type"]
        place = f"{room_type.capitalize()} {place}"
    named_view: View | None = None
    if scene.view is not None:
        attributes["view"] = scene.view
        if chance(rng, _VIEW_NAMED):
            named_view = scene.view
    elif scene.kind in _WITH_ROOM_TYPE and chance(rng, _VIEW_UNSEEN):
        unseen: View = rng.choice(VIEWS)
        attributes["view"] = named_view = unseen
    things = _name_things(rng, scene, wrong=chance(rng, wrong_title_rate))
    words = [place]
    if things:
        words.append("with " + " and ".join(LABELS[label] for label in things))
    if named_view is not None:
        words.append(
            rng.choice(("({} view)", "- {} view", "overlooking the {}")).format(named_view)
        )
    if chance(rng, 0.7):
        words.append(f"| {rng.choice(_HOTELS)}")
    return Caption(" ".join(words), attributes)


def _name_things(rng: random.Random, scene: Scene, *, wrong: bool) -> list[str]:
    """Returns the labels a title names: of the scene, or, in a wrong title, of others."""
    shown = [label for label in scene.labels if label not in _VIEW_LABELS]
    if wrong:
        shown = [
            label for label in LABELS if label not in scene.labels and label not in _VIEW_LABELS
        ]
    count = min(len(shown), rng.choices((0, 1, 2), (20, 45, 35))[0])
    if wrong:
        count = max(1, count)
    return rng.sample(shown, count)
