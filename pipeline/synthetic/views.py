"""Skies and what stands under them: sea, mountains, city, garden. Drawn outdoors and in windows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipeline.synthetic.canvas import Pen
from pipeline.synthetic.colours import WHITE, Colour, chance, hsv, mix, shade

View = Literal["sea", "mountain", "city", "garden"]
VIEWS: tuple[View, ...] = ("sea", "mountain", "city", "garden")


@dataclass(frozen=True)
class Weather:
    """The hour and the weather: colours that everything outdoors shares.

    Attributes:
        night: Whether lamps and windows shine.
        zenith: Colour of the sky above.
        horizon: Colour of the sky at the horizon.
        land: Share by which things far away take the sky's colour.
    """

    night: bool
    zenith: Colour
    horizon: Colour
    haze: float


def make_weather(rng: random.Random) -> Weather:
    """Returns weather of any hour: day, overcast, golden, dusk, night."""
    kind = rng.choices(("day", "overcast", "golden", "dusk", "night"), (35, 18, 20, 12, 15))[0]
    if kind == "day":
        zenith = hsv(rng.uniform(0.52, 0.62), rng.uniform(0.35, 0.7), rng.uniform(0.75, 0.95))
        horizon = hsv(rng.uniform(0.48, 0.6), rng.uniform(0.05, 0.25), rng.uniform(0.9, 1.0))
    elif kind == "overcast":
        zenith = hsv(rng.random(), rng.uniform(0.02, 0.12), rng.uniform(0.55, 0.8))
        horizon = hsv(rng.random(), rng.uniform(0.0, 0.1), rng.uniform(0.8, 0.95))
    elif kind == "golden":
        zenith = hsv(rng.uniform(0.03, 0.16), rng.uniform(0.25, 0.6), rng.uniform(0.75, 0.95))
        horizon = hsv(rng.uniform(0.08, 0.15), rng.uniform(0.2, 0.5), 1.0)
    elif kind == "dusk":
        zenith = hsv(rng.uniform(0.66, 0.85), rng.uniform(0.3, 0.55), rng.uniform(0.4, 0.65))
        horizon = hsv(rng.uniform(0.92, 1.06), rng.uniform(0.3, 0.6), rng.uniform(0.8, 0.98))
    else:
        zenith = hsv(rng.uniform(0.58, 0.72), rng.uniform(0.4, 0.7), rng.uniform(0.12, 0.28))
        horizon = hsv(rng.uniform(0.55, 0.75), rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.5))
    return Weather(kind == "night", zenith, horizon, rng.uniform(0.15, 0.5))


def _draw_sky(pen: Pen, rng: random.Random, weather: Weather, horizon: float) -> None:
    pen.gradient(0, horizon + 0.02, weather.zenith, weather.horizon)
    x, y = rng.uniform(0.15, 0.85), rng.uniform(0.12, 0.6) * horizon
    if weather.night:
        for _ in range(rng.randint(8, 20)):
            pen.disc(rng.random(), rng.random() * horizon * 0.9, 0.004, (235, 235, 225))
        pen.disc(x, y, 0.045, (240, 238, 220))
        pen.disc(x + 0.02, y - 0.01, 0.04, mix(weather.zenith, weather.horizon, y))
        return
    if chance(rng, 0.5):
        pen.disc(x, y, 0.075, mix(weather.horizon, (255, 250, 225), 0.6))
        pen.disc(x, y, 0.052, (255, 252, 235))
    cloud = mix(weather.horizon, WHITE, 0.55)
    for _ in range(rng.randint(0, 3)):
        x, y = rng.uniform(0, 0.9), rng.uniform(0.05, 0.6) * horizon
        size = rng.uniform(0.05, 0.1)
        for puff in range(4):
            left, lift = x + puff * size * 0.8, size * (0.3 + 0.4 * (puff % 2))
            pen.ellipse(left, y - lift, left + size * 1.7, y + size * 0.35, cloud)


def _draw_sea(pen: Pen, rng: random.Random, weather: Weather, horizon: float) -> None:
    base = hsv(rng.uniform(0.44, 0.64), rng.uniform(0.2, 0.75), rng.uniform(0.4, 0.85))
    if chance(rng, 0.35):
        base = mix(base, weather.zenith, 0.7)
    if weather.night:
        base = shade(base, 0.4)
    far = mix(base, weather.horizon, 0.45)
    pen.gradient(horizon, 1, far, shade(base, 0.8))
    if chance(rng, 0.4):  # an island
        x, size = rng.uniform(0.0, 0.7), rng.uniform(0.15, 0.35)
        rise = horizon - rng.uniform(0.03, 0.06)
        hill = mix(hsv(rng.random(), 0.25, 0.4), weather.horizon, weather.haze)
        pen.polygon(
            [
                (x, horizon),
                (x + size * 0.3, rise),
                (x + size * 0.6, rise + 0.015),
                (x + size, horizon),
            ],
            hill,
        )
    crest = mix(far, WHITE, 0.6 if not weather.night else 0.35)
    rows = 9
    for row in range(rows):
        depth = (row + 0.6) / rows
        y = horizon + (1 - horizon) * depth**1.3
        length = 0.05 + 0.16 * depth
        for _ in range(rng.randint(2, 4)):
            x = rng.uniform(-0.05, 1.0)
            lift = 0.012 + 0.02 * depth
            pen.line(
                [
                    (x, y),
                    (x + length / 4, y - lift),
                    (x + length / 2, y),
                    (x + 3 * length / 4, y - lift),
                    (x + length, y),
                ],
                crest,
                0.006 + 0.008 * depth,
            )
    if chance(rng, 0.7):
        _draw_boat(pen, rng, horizon)


def _draw_boat(pen: Pen, rng: random.Random, horizon: float) -> None:
    size = rng.uniform(0.12, 0.2)
    x, y = rng.uniform(0.15, 0.8), horizon + rng.uniform(0.04, 0.14)
    sail = hsv(rng.random(), rng.choice((0.05, 0.1, 0.6)), 0.97)
    hull = hsv(rng.random(), 0.5, rng.uniform(0.3, 0.9))
    pen.polygon([(x, y - size * 1.3), (x, y - size * 0.2), (x + size * 0.62, y - size * 0.2)], sail)
    pen.polygon(
        [(x - 0.012, y - size), (x - 0.012, y - size * 0.2), (x - size * 0.38, y - size * 0.2)],
        shade(sail, 0.86),
    )
    pen.polygon(
        [
            (x - size * 0.5, y - size * 0.12),
            (x + size * 0.7, y - size * 0.12),
            (x + size * 0.48, y + size * 0.12),
            (x - size * 0.32, y + size * 0.12),
        ],
        hull,
    )


def _draw_mountains(pen: Pen, rng: random.Random, weather: Weather, horizon: float) -> None:
    rock = hsv(rng.random(), rng.uniform(0.08, 0.35), rng.uniform(0.35, 0.6))
    if weather.night:
        rock = shade(rock, 0.55)
    snow = mix(WHITE, weather.horizon, 0.15 if not weather.night else 0.5)
    for depth, (peaks, height) in enumerate(((3, 0.62), (2, 0.5))):
        colour = mix(rock, weather.horizon, 0.35 * (1 - depth))
        for peak in range(peaks):
            x = (peak + rng.uniform(0.2, 0.8)) / peaks
            top = max(0.04, horizon + 0.12 - height * rng.uniform(0.75, 1.1))
            foot = horizon + 0.14
            half = rng.uniform(0.3, 0.42)
            pen.polygon([(x - half, foot), (x, top), (x + half, foot)], colour)
            pen.polygon(
                [(x, top), (x + half, foot), (x + half * 0.15, foot), (x - half * 0.08, top + 0.2)],
                shade(colour, 0.78),
            )
            cap = (foot - top) * rng.uniform(0.28, 0.42)
            slope = half * cap / (foot - top)
            pen.polygon(
                [
                    (x, top),
                    (x + slope, top + cap),
                    (x + slope * 0.45, top + cap * 0.7),
                    (x + slope * 0.05, top + cap * 1.1),
                    (x - slope * 0.4, top + cap * 0.72),
                    (x - slope, top + cap),
                ],
                snow,
            )
    meadow = hsv(rng.choice((0.12, 0.26, 0.32, 0.42, 0.6)), rng.uniform(0.2, 0.5), 0.55)
    meadow = shade(meadow, 0.45) if weather.night else meadow
    pen.gradient(horizon + 0.12, 1, meadow, shade(meadow, 0.72))
    pine = shade(meadow, 0.6)
    for _ in range(rng.randint(5, 9)):
        x, foot, size = rng.random(), rng.uniform(horizon + 0.15, 0.85), rng.uniform(0.08, 0.16)
        for tier in range(3):
            y = foot - size * tier * 0.32
            half = size * (0.32 - 0.08 * tier)
            pen.polygon([(x - half, y), (x, y - size * 0.5), (x + half, y)], pine)


def _draw_city(pen: Pen, rng: random.Random, weather: Weather, horizon: float) -> None:
    ground = mix(hsv(rng.random(), 0.15, 0.5), weather.horizon, 0.3)
    pen.rect(0, horizon, 1, 1, shade(ground, 0.45 if weather.night else 1.0))
    for depth in range(2):
        x = -0.04
        while x < 1:
            width = rng.uniform(0.11, 0.2)
            top = horizon + 0.12 * depth - rng.uniform(0.18, 0.58) * (1 - 0.3 * depth)
            top = max(0.03, top)
            tower = hsv(rng.random(), rng.uniform(0.05, 0.4), rng.uniform(0.35, 0.85))
            tower = mix(tower, weather.horizon, weather.haze * (1 - depth))
            if weather.night:
                tower = shade(tower, 0.35)
            right = min(x + width * 0.94, 1.0)
            pen.rect(max(x, 0), top, right, 1, tower)
            pen.rect(max(x + width * 0.7, 0), top, right, 1, shade(tower, 0.82))
            if chance(rng, 0.3):
                pen.line([(x + width / 2, top), (x + width / 2, top - 0.08)], tower, 0.012)
            shining = (255, 226, 150) if weather.night else mix(tower, WHITE, 0.55)
            y = top + 0.035
            while y < 1:
                for column in range(3):
                    left = x + width * (0.14 + 0.27 * column)
                    if left > 0 and left + width * 0.14 < 1 and chance(rng, 0.75):
                        pen.rect(left, y, left + width * 0.14, y + 0.03, shining)
                y += 0.065
            x += width


def _draw_garden(pen: Pen, rng: random.Random, weather: Weather, horizon: float) -> None:
    lawn = hsv(rng.uniform(0.2, 0.38), rng.uniform(0.25, 0.6), rng.uniform(0.45, 0.75))
    lawn = shade(lawn, 0.4) if weather.night else lawn
    pen.gradient(horizon, 1, mix(lawn, weather.horizon, 0.2), shade(lawn, 0.8))
    for _ in range(rng.randint(4, 7)):
        x, size = rng.random(), rng.uniform(0.08, 0.16)
        crown = hsv(rng.choice((0.05, 0.15, 0.25, 0.33, 0.4, 0.92)), rng.uniform(0.25, 0.6), 0.55)
        crown = shade(crown, 0.45) if weather.night else crown
        foot = horizon + rng.uniform(0.0, 0.1)
        pen.rect(x - 0.012, foot - size, x + 0.012, foot, (96, 74, 58))
        for angle in range(5):
            turn = 2 * math.pi * angle / 5
            pen.disc(
                x + 0.5 * size * math.cos(turn),
                foot - size * 1.2 + 0.4 * size * math.sin(turn),
                size * 0.6,
                shade(crown, 0.9 + 0.06 * angle),
            )
    for _ in range(rng.randint(6, 14)):
        pen.disc(
            rng.random(), rng.uniform(horizon + 0.12, 0.95), 0.016, hsv(rng.random(), 0.6, 0.95)
        )


_DRAWERS: dict[View, Callable[[Pen, random.Random, Weather, float], None]] = {
    "sea": _draw_sea,
    "mountain": _draw_mountains,
    "city": _draw_city,
    "garden": _draw_garden,
}


def draw_view(pen: Pen, rng: random.Random, view: View, weather: Weather) -> None:
    """Fills the pen's box with sky and a view."""
    horizon = rng.uniform(0.45, 0.6)
    _draw_sky(pen, rng, weather, horizon)
    _DRAWERS[view](pen, rng, weather, horizon)
