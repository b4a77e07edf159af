"""Whole scenes: which objects stand where in a bedroom, a bathroom, at a pool, ...

The shares of kinds and objects make the long tail of the labels. A label is kept only where enough
of its object stays visible.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from pipeline.synthetic import clutter, outdoors
from pipeline.synthetic.canvas import Box
from pipeline.synthetic.colours import chance, hsv, make_fabric, mix, shade
from pipeline.synthetic.stage import SIZES, Drawer, DrawnObject, Stage, visible_labels
from pipeline.synthetic.views import View

Kind = Literal["bedroom", "bathroom", "pool", "balcony", "lounge", "restaurant", "leisure"]
Weights = dict[str, float]

MAX_SIDE = 2048

_KINDS: dict[Kind, float] = {
    "bedroom": 0.36,
    "pool": 0.16,
    "lounge": 0.15,
    "bathroom": 0.13,
    "balcony": 0.10,
    "restaurant": 0.06,
    "leisure": 0.04,
}
_FLOOR_CLUTTER: tuple[Drawer, ...] = (
    clutter.draw_suitcase,
    clutter.draw_side_table,
    clutter.draw_pouf,
    clutter.draw_ball,
)
_WALL_CLUTTER: tuple[Drawer, ...] = (clutter.draw_shelf, clutter.draw_clock)

_MAIN: dict[Kind, Weights] = {
    "bedroom": {"bed": 1.0},
    "bathroom": {"bathtub": 0.62, "washbasin": 0.28, "toilet": 0.10},
    "lounge": {"sofa": 0.50, "desk": 0.22, "television": 0.06, "fireplace": 0.12, "piano": 0.10},
    "restaurant": {"dining_table": 0.62, "bar": 0.38},
    "leisure": {"treadmill": 0.58, "billiard_table": 0.42},
}
_SIDE: dict[Kind, Weights] = {
    "bedroom": {"lamp": 0.42, "plant": 0.18, "armchair": 0.12, "cot": 0.035, "": 0.2},
    "bathroom": {"washbasin": 0.40, "toilet": 0.30, "plant": 0.15, "": 0.15},
    "lounge": {"lamp": 0.35, "plant": 0.30, "armchair": 0.18, "": 0.17},
    "restaurant": {"plant": 0.4, "lamp": 0.2, "": 0.4},
    "leisure": {"plant": 0.3, "": 0.7},
}
_WALL: dict[Kind, Weights] = {
    "bedroom": {"window": 0.40, "painting": 0.24, "television": 0.12, "mirror": 0.05, "": 0.19},
    "bathroom": {"mirror": 0.30, "window": 0.30, "painting": 0.06, "": 0.34},
    "lounge": {"window": 0.26, "painting": 0.24, "television": 0.24, "chandelier": 0.12, "": 0.14},
    "restaurant": {"window": 0.40, "chandelier": 0.30, "painting": 0.20, "": 0.1},
    "leisure": {"window": 0.30, "television": 0.25, "painting": 0.15, "": 0.3},
}
_TALL = ("lamp", "palm_tree", "parasol")


@dataclass(frozen=True)
class Scene:
    """A drawn picture and what is true about it.

    Attributes:
        image: RGB.
        kind: What sort of place it shows.
        labels: Label ids of what is visible, sorted.
        objects: What was drawn, in drawing order, covered things included.
        wall_colour: Name of the wall's colour; None outdoors.
        view: What a window or the open air shows; None where nothing does.
    """

    image: Image.Image
    kind: Kind
    labels: tuple[str, ...]
    objects: tuple[DrawnObject, ...]
    wall_colour: str | None
    view: View | None


def _pick(rng: random.Random, weights: Weights) -> str:
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


def _set_room(stage: Stage, kind: Kind) -> None:
    """Sets an indoor scene: wall, floor, one main object, one beside it, something on the wall."""
    rng = stage.rng
    line = rng.uniform(0.60, 0.70)
    wall = stage.whole.within(0, 0, 1, stage.above(line))
    draw_wall = clutter.draw_wall
    if kind == "bathroom" and chance(rng, 0.7):
        draw_wall = clutter.draw_tiles
    draw_wall(wall, rng, stage.palette.wall)
    skirting = mix(stage.palette.wall, (255, 255, 255), 0.5)
    wall.rect(0, 0.965, 1, 1, skirting)
    floor = stage.whole.within(0, stage.above(line), 1, 1)
    clutter.draw_floor(floor, rng, stage.palette.floor)
    if chance(rng, 0.5):
        x = rng.uniform(0.0, 0.2)
        clutter.draw_rug(stage.pen.within(x, 0.84, x + rng.uniform(0.6, 0.9), 0.99), rng)

    main, side = _pick(rng, _MAIN[kind]), _pick(rng, _SIDE[kind])
    if side == main:
        side = ""
    foot = rng.uniform(0.88, 0.97)
    width, height = SIZES[main]
    middle = width / 2 + rng.uniform(0.0, 0.06)
    main_top = foot - height * 0.97
    side_x = rng.uniform(0.83, 0.9)

    if main != "bar":
        _hang(stage, kind, (0.03, 0.05, width + 0.04, main_top - 0.01), taken=main)
    if side not in _TALL and chance(rng, 0.55):
        low = 0.46 if side else 0.5
        box = (0.69, rng.uniform(0.05, 0.12), 0.98, low)
        if chance(rng, 0.45):
            _hang(stage, kind, box, taken=main)
        elif not side and chance(rng, 0.6):
            clutter.draw_door(stage.pen.within(0.70, 0.12, 0.98, line), rng, stage.palette)
        else:
            thing = clutter.draw_towels if kind == "bathroom" else rng.choice(_WALL_CLUTTER)
            thing(stage.pen.within(0.72, 0.15, 0.95, 0.36), rng, stage.palette)
    if side:
        stage.stand(side, side_x, line + rng.uniform(0.08, 0.2))
    elif chance(rng, 0.5):
        thing = rng.choice(_FLOOR_CLUTTER)
        thing(stage.pen.within(0.72, 0.66, 0.93, 0.66 + 0.26), rng, stage.palette)
    stage.stand(main, middle, foot)
    if main in ("sofa", "desk", "fireplace") and kind == "lounge" and chance(rng, 0.25):
        second = rng.choice(("armchair", "plant"))
        if second != side:
            stage.stand(second, 0.86, 0.99, 0.85)


def _hang(stage: Stage, kind: Kind, box: Box, *, taken: str) -> None:
    """Puts something on a part of the wall."""
    rng = stage.rng
    left, top, right, bottom = box
    thing = _pick(rng, _WALL[kind])
    used = {item.label for item in stage.objects} | {taken}
    if thing in used or (thing == "window" and stage.view) or not thing:
        return
    width, height = right - left, bottom - top
    if thing == "window":
        reach = min(width, rng.uniform(0.42, 0.62))
        x = left + 0.03 + rng.uniform(0, max(0.0, width - reach - 0.06))
        stage.open_window((x, top - 0.03, x + reach - 0.03, bottom + 0.02))
        return
    ratio = {
        "painting": rng.uniform(0.8, 1.4),
        "television": 1.35,
        "mirror": 0.9,
        "chandelier": 1.3,
    }
    tall = min(height, 0.42 if thing != "mirror" else 0.4) * rng.uniform(0.88, 1.0)
    wide = min(tall * ratio[thing], width)
    tall = min(tall, wide / ratio[thing] * 1.15)
    x = left + rng.uniform(0, width - wide)
    if thing == "chandelier":
        stage.put(thing, (x, 0.0 if stage.above(0) >= 0 else top, x + wide, tall + 0.08))
        return
    y = top + rng.uniform(0, max(0.0, height - tall))
    stage.put(thing, (x, y, x + wide, y + tall))


def _set_pool(stage: Stage) -> None:
    """Sets a pool under the open sky, with what stands around it."""
    rng = stage.rng
    line = rng.uniform(0.40, 0.52)
    stage.open_air(line)
    ground = stage.whole.within(0, stage.above(line), 1, 1)
    if chance(rng, 0.7):
        clutter.draw_floor(ground, rng, stage.palette.floor)
    else:
        clutter.draw_lawn(ground, rng)
    if chance(rng, 0.3):  # a low wall or hedge behind the pool
        ground.rect(0, -0.08, 1, 0.03, shade(make_fabric(rng), 0.8))
    behind = _pick(rng, {"palm_tree": 0.40, "parasol": 0.30, "bar": 0.06, "": 0.24})
    if behind == "palm_tree":
        stage.stand(behind, rng.uniform(0.72, 0.82), line + rng.uniform(0.08, 0.16))
    elif behind == "parasol":
        stage.stand(behind, rng.uniform(0.70, 0.80), line + rng.uniform(0.10, 0.18))
    elif behind:
        stage.stand(behind, rng.uniform(0.66, 0.70), line + 0.12, 0.75)
    if chance(rng, 0.22):
        stage.stand("palm_tree", rng.uniform(0.14, 0.22), line + rng.uniform(0.05, 0.1), 0.85)
    top = line + rng.uniform(0.10, 0.16)
    left = rng.uniform(0.0, 0.1)
    stage.put("pool", (left, top, left + rng.uniform(0.74, 0.9), top + rng.uniform(0.28, 0.36)))
    if chance(rng, 0.55):
        stage.stand("sun_lounger", rng.uniform(0.3, 0.75), 0.98)
    elif chance(rng, 0.3):
        clutter.draw_ball(stage.pen.within(0.4, 0.85, 0.54, 0.98), rng, stage.palette)


def _set_balcony(stage: Stage) -> None:
    """Sets a balcony: the view over a railing, and what stands before it."""
    rng = stage.rng
    line = rng.uniform(0.72, 0.80)
    stage.open_air(line)
    floor = stage.whole.within(0, stage.above(line), 1, 1)
    clutter.draw_floor(floor, rng, stage.palette.floor)
    rail_top = line - rng.uniform(0.20, 0.26)
    stage.put_across("balcony", rail_top, line + 0.02)
    if chance(rng, 0.45):
        outdoors.draw_awning(stage.whole.within(0, 0, 1, stage.above(0.09)), rng, stage.palette)
    front = _pick(
        rng,
        {"armchair": 0.22, "plant": 0.25, "dining_table": 0.15, "sun_lounger": 0.18, "": 0.2},
    )
    x = rng.uniform(0.2, 0.36)
    if front:
        stage.stand(front, x, rng.uniform(0.93, 0.98))
    second = _pick(rng, {"plant": 0.3, "parasol": 0.2, "": 0.5})
    if second and second != front:
        stage.stand(second, rng.uniform(0.78, 0.84), 0.95)


def draw_scene(rng: random.Random, *, width: int = 800, height: int = 600) -> Scene:
    """Draws one scene.

    Args:
        rng: All that is random comes from it.
        width: Pixels, at most ``MAX_SIDE``.
        height: Pixels, at most ``MAX_SIDE``.

    Raises:
        ValueError: A side is longer than ``MAX_SIDE``.
    """
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"scenes have sides of at most {MAX_SIDE} pixels, not {width}x{height}")
    stage = Stage(rng, width, height)
    kind = rng.choices(tuple(_KINDS), tuple(_KINDS.values()))[0]
    outside = kind in ("pool", "balcony")
    dark = stage.weather.night and chance(rng, 0.7)
    stage.canvas.dim(
        rng.uniform(0.62, 0.8) if dark else rng.uniform(0.88, 1.05), rng.uniform(-1, 1)
    )
    if kind == "pool":
        _set_pool(stage)
    elif kind == "balcony":
        _set_balcony(stage)
    else:
        _set_room(stage, kind)
    tint = hsv(rng.random(), rng.uniform(0.0, 0.14), 1.0)
    exposure = rng.uniform(0.95, 1.12)
    image = stage.canvas.finish(rng, tint=tint, exposure=exposure, grain=rng.randint(0, 3))
    return Scene(
        image=image,
        kind=kind,
        labels=visible_labels(stage.objects),
        objects=tuple(stage.objects),
        wall_colour=None if outside else stage.wall_colour,
        view=stage.view,
    )
