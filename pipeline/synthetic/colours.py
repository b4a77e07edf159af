"""Colours of drawn scenes: chosen at random for every object, so that colour tells little."""

from __future__ import annotations

import colorsys
import random
from dataclasses import dataclass

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)

# Hue, saturation and value of each named wall colour; drawn with a small random distance to it.
WALL_COLOURS: dict[str, tuple[float, float, float]] = {
    "white": (0.12, 0.04, 0.96),
    "grey": (0.60, 0.05, 0.68),
    "beige": (0.10, 0.24, 0.88),
    "yellow": (0.13, 0.52, 0.93),
    "terracotta": (0.04, 0.52, 0.76),
    "green": (0.36, 0.30, 0.66),
    "blue": (0.58, 0.36, 0.70),
}

_LEAF_HUES = (0.24, 0.30, 0.34, 0.40, 0.17, 0.08)


def seeded(*key: object) -> random.Random:
    """Returns a generator that depends on nothing but the key.

    Args:
        *key: Anything whose text is stable, such as a seed and an index.
    """
    return random.Random("/".join(str(part) for part in key))  # noqa: S311  drawing, no secrets


def chance(rng: random.Random, probability: float) -> bool:
    """Returns True with the given probability."""
    return rng.random() < probability


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Returns the RGB colour of a hue (turns), a saturation and a value (both cut to 0..1)."""
    red, green, blue = colorsys.hsv_to_rgb(
        hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0)
    )
    return round(red * 255), round(green * 255), round(blue * 255)


def shade(colour: Colour, factor: float) -> Colour:
    """Returns the colour made darker (factor below 1) or lighter (above 1)."""
    red, green, blue = (min(255, round(part * factor)) for part in colour)
    return red, green, blue


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Returns a colour between two: the first at share 0, the second at share 1."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


@dataclass(frozen=True)
class Palette:
    """The colours of one scene.

    Attributes:
        wall: Back wall.
        floor: Floor, deck or ground.
        wood: Furniture.
        ceramic: Bathtub, basin, toilet.
        metal: Taps, legs, rails.
        leaf: Plants.
    """

    wall: Colour
    floor: Colour
    wood: Colour
    ceramic: Colour
    metal: Colour
    leaf: Colour


def make_wall_colour(rng: random.Random, name: str) -> Colour:
    """Returns a wall colour near the named one."""
    hue, saturation, value = WALL_COLOURS[name]
    return hsv(
        hue + rng.uniform(-0.02, 0.02),
        saturation + rng.uniform(-0.03, 0.05),
        value + rng.uniform(-0.06, 0.04),
    )


def make_palette(rng: random.Random, wall: Colour) -> Palette:
    """Returns random colours around a wall colour."""
    floor = (
        hsv(rng.uniform(0.04, 0.12), rng.uniform(0.2, 0.6), rng.uniform(0.35, 0.85))
        if chance(rng, 0.6)
        else hsv(rng.random(), rng.uniform(0.05, 0.35), rng.uniform(0.4, 0.9))
    )
    wood = (
        hsv(rng.uniform(0.03, 0.10), rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.75))
        if chance(rng, 0.65)
        else hsv(rng.random(), rng.uniform(0.05, 0.5), rng.uniform(0.25, 0.95))
    )
    ceramic = (
        hsv(rng.random(), rng.uniform(0.0, 0.08), rng.uniform(0.88, 1.0))
        if chance(rng, 0.7)
        else hsv(rng.random(), rng.uniform(0.2, 0.5), rng.uniform(0.3, 0.9))
    )
    metal = (
        hsv(rng.random(), rng.uniform(0.0, 0.1), rng.uniform(0.2, 0.85))
        if chance(rng, 0.6)
        else hsv(rng.uniform(0.08, 0.14), rng.uniform(0.4, 0.6), rng.uniform(0.6, 0.85))
    )
    leaf = hsv(
        rng.choice(_LEAF_HUES) + rng.uniform(-0.03, 0.03),
        rng.uniform(0.35, 0.75),
        rng.uniform(0.3, 0.7),
    )
    return Palette(wall, floor, wood, ceramic, metal, leaf)


def make_fabric(rng: random.Random) -> Colour:
    """Returns a random colour of cloth: any hue, pale to strong, dark to light."""
    return hsv(rng.random(), rng.uniform(0.05, 0.75), rng.uniform(0.3, 0.95))


def make_light_fabric(rng: random.Random) -> Colour:
    """Returns a random light colour, for linen and towels."""
    return hsv(rng.random(), rng.uniform(0.0, 0.22), rng.uniform(0.82, 1.0))
