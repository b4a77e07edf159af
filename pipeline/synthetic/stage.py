"""The stage of a scene: the canvas, its colours and weather, and what has been drawn where.

Every object with a label stands in the largest centred square, so that the centre crop of a model
still shows it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.synthetic import fittings, furniture, outdoors
from pipeline.synthetic.canvas import Box, Canvas, Pen
from pipeline.synthetic.colours import (
    WALL_COLOURS,
    Palette,
    chance,
    make_palette,
    make_wall_colour,
)
from pipeline.synthetic.views import View, draw_view, make_weather

Drawer = Callable[[Pen, random.Random, Palette], None]

# Share of an object's box that later objects may cover before its label is dropped.
MAX_COVERED = 0.6

_VIEW_LABELS: dict[View, str] = {
    "sea": "sea_view",
    "mountain": "mountain_view",
    "city": "city_view",
}
_VIEWS: dict[View, float] = {"sea": 0.5, "city": 0.17, "mountain": 0.15, "garden": 0.18}

_DRAWERS: dict[str, Drawer] = {
    "bed": furniture.draw_bed,
    "cot": furniture.draw_cot,
    "sofa": furniture.draw_sofa,
    "armchair": furniture.draw_armchair,
    "desk": furniture.draw_desk,
    "lamp": furniture.draw_lamp,
    "chandelier": furniture.draw_chandelier,
    "fireplace": furniture.draw_fireplace,
    "piano": furniture.draw_piano,
    "billiard_table": furniture.draw_billiard_table,
    "treadmill": furniture.draw_treadmill,
    "dining_table": furniture.draw_dining_table,
    "bar": furniture.draw_bar,
    "bathtub": fittings.draw_bathtub,
    "washbasin": fittings.draw_washbasin,
    "toilet": fittings.draw_toilet,
    "mirror": fittings.draw_mirror,
    "painting": fittings.draw_painting,
    "television": fittings.draw_television,
    "plant": fittings.draw_plant,
    "pool": outdoors.draw_pool,
    "sun_lounger": outdoors.draw_sun_lounger,
    "parasol": outdoors.draw_parasol,
    "palm_tree": outdoors.draw_palm_tree,
    "balcony": outdoors.draw_balcony,
}
# Width and height on the stage (a square of side 1) of what stands on the floor.
SIZES: dict[str, tuple[float, float]] = {
    "bed": (0.62, 0.44),
    "sofa": (0.60, 0.36),
    "desk": (0.52, 0.44),
    "bathtub": (0.62, 0.38),
    "fireplace": (0.42, 0.44),
    "piano": (0.58, 0.46),
    "billiard_table": (0.64, 0.40),
    "treadmill": (0.54, 0.44),
    "dining_table": (0.54, 0.44),
    "bar": (0.60, 0.56),
    "washbasin": (0.36, 0.44),
    "toilet": (0.30, 0.38),
    "armchair": (0.32, 0.38),
    "cot": (0.32, 0.42),
    "lamp": (0.25, 0.62),
    "plant": (0.28, 0.48),
    "palm_tree": (0.44, 0.68),
    "parasol": (0.42, 0.52),
    "sun_lounger": (0.46, 0.30),
    "television": (0.46, 0.36),
}
# What stands on a pole hides only with its upper part.
_SOLID_SHARE = {"lamp": 0.35, "parasol": 0.42, "palm_tree": 0.45, "chandelier": 0.8}


@dataclass(frozen=True)
class DrawnObject:
    """One labelled object of a scene.

    Attributes:
        label: Label id.
        box: Left, top, right, bottom in fractions of the picture.
    """

    label: str
    box: Box


class Stage:
    """A scene being set: draws objects and remembers where."""

    def __init__(self, rng: random.Random, width: int, height: int) -> None:
        self.rng = rng
        self.canvas = Canvas(width, height)
        self.wall_colour = rng.choice(tuple(WALL_COLOURS))
        self.palette = make_palette(rng, make_wall_colour(rng, self.wall_colour))
        self.weather = make_weather(rng)
        self.objects: list[DrawnObject] = []
        self.view: View | None = None
        across, down = self.canvas.width, self.canvas.height
        side = min(across, down)
        self.whole = Pen(self.canvas, 0, 0, across, down)
        self.pen = Pen(
            self.canvas, (across - side) / 2, (down - side) / 2, side, side, chance(rng, 0.5)
        )

    def above(self, y: float) -> float:
        """Returns the fraction of the whole picture at a height of the stage."""
        return self.pen.at(0, y)[1] / self.canvas.height

    def put(self, label: str, box: Box) -> None:
        """Draws an object into a box of the stage."""
        pen = self.pen.within(*box, mirrored=chance(self.rng, 0.5))
        _DRAWERS[label](pen, self.rng, self.palette)
        self.objects.append(DrawnObject(label, pen.fraction()))

    def put_across(self, label: str, top: float, bottom: float) -> None:
        """Draws an object from edge to edge of the picture, between two heights of the stage."""
        pen = self.whole.within(0, self.above(top), 1, self.above(bottom))
        _DRAWERS[label](pen, self.rng, self.palette)
        self.objects.append(DrawnObject(label, pen.fraction()))

    def stand(self, label: str, x: float, foot: float, size: float = 1.0) -> None:
        """Draws an object that stands at a place of the floor, x being its middle."""
        width, height = SIZES[label]
        size = min(size * self.rng.uniform(0.88, 1.08), (foot - 0.02) / height)
        width, height = width * size * self.rng.uniform(0.94, 1.06), height * size
        x = min(max(x, width / 2 - 0.02), 1.02 - width / 2)
        self.put(label, (x - width / 2, foot - height, x + width / 2, foot))

    def open_window(self, box: Box) -> None:
        """Draws a window with a view."""
        self.view = self._choose_view()
        pen = self.pen.within(*box)
        fittings.draw_window(pen, self.rng, self.palette, self.view, self.weather)
        self._remember_view(pen)

    def open_air(self, horizon: float) -> None:
        """Fills the picture with a view down to a height of the stage."""
        self.view = self._choose_view()
        pen = self.whole.within(0, 0, 1, self.above(horizon))
        draw_view(pen, self.rng, self.view, self.weather)
        self._remember_view(pen)

    def _choose_view(self) -> View:
        return self.rng.choices(tuple(_VIEWS), tuple(_VIEWS.values()))[0]

    def _remember_view(self, pen: Pen) -> None:
        if self.view in _VIEW_LABELS:
            self.objects.append(DrawnObject(_VIEW_LABELS[self.view], pen.fraction()))


def visible_labels(objects: Sequence[DrawnObject]) -> tuple[str, ...]:
    """Returns the labels whose object stays visible, sorted.

    Args:
        objects: In drawing order; later ones cover earlier ones.
    """
    labels = set()
    for place, item in enumerate(objects):
        later = [_solid_part(other) for other in objects[place + 1 :]]
        if covered_share(item.box, later) <= MAX_COVERED:
            labels.add(item.label)
    return tuple(sorted(labels))


def _solid_part(item: DrawnObject) -> Box:
    """Returns the part of an object's box that hides what is behind it."""
    left, top, right, bottom = item.box
    trim = 0.08 * (right - left)
    share = _SOLID_SHARE.get(item.label, 1.0)
    return left + trim, top, right - trim, top + share * (bottom - top)


def covered_share(box: Box, others: Sequence[Box], *, grid: int = 12) -> float:
    """Returns the share of a box that lies under other boxes, or outside the picture.

    Args:
        box: Left, top, right, bottom in fractions of the picture.
        others: Boxes over it.
        grid: Points looked at along each side.
    """
    left, top, right, bottom = box
    over = [b for b in others if b[0] < right and b[2] > left and b[1] < bottom and b[3] > top]
    if not over and left >= 0 and top >= 0 and right <= 1 and bottom <= 1:
        return 0.0
    hidden = 0
    for row in range(grid):
        y = top + (bottom - top) * (row + 0.5) / grid
        for column in range(grid):
            x = left + (right - left) * (column + 0.5) / grid
            outside = not (0 <= x <= 1 and 0 <= y <= 1)
            hidden += outside or any(a <= x <= c and b <= y <= d for a, b, c, d in over)
    return hidden / grid**2
