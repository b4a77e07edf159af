"""Bathrooms, walls and plants of drawn scenes. Every function fills its pen's box."""

from __future__ import annotations

import math
import random

from pipeline.synthetic.canvas import Pen, curve
from pipeline.synthetic.colours import (
    WHITE,
    Palette,
    chance,
    hsv,
    make_fabric,
    make_light_fabric,
    mix,
    shade,
)
from pipeline.synthetic.views import View, Weather, draw_view


def draw_bathtub(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a bathtub on feet with taps and foam."""
    tub, metal = palette.ceramic, palette.metal
    pen.shadow(0.0, 0.92, 1.0, 1.08)
    for x in (0.2, 0.72):
        pen.polygon([(x, 0.86), (x + 0.09, 0.86), (x + 0.06, 1.0), (x + 0.02, 1.0)], metal)
    pen.rect(0.86, 0.12, 0.89, 0.5, metal)
    pen.line(
        [(0.875, 0.14), *curve(0.81, 0.16, 0.065, 0.08, (0.0, -0.5)), (0.745, 0.26)], metal, 0.06
    )
    pen.disc(0.875, 0.12, 0.05, shade(metal, 1.2))
    foam = mix(WHITE, hsv(rng.random(), 0.2, 1.0), 0.4)
    for _ in range(rng.randint(7, 12)):
        pen.disc(rng.uniform(0.18, 0.72), rng.uniform(0.3, 0.42), rng.uniform(0.06, 0.13), foam)
    pen.polygon(
        [
            (0.0, 0.4),
            (1.0, 0.4),
            (0.97, 0.62),
            (0.86, 0.84),
            (0.72, 0.93),
            (0.28, 0.93),
            (0.14, 0.84),
            (0.03, 0.62),
        ],
        tub,
    )
    pen.polygon(
        [(0.03, 0.62), (0.97, 0.62), (0.86, 0.84), (0.72, 0.93), (0.28, 0.93), (0.14, 0.84)],
        shade(tub, 0.86),
    )
    pen.rounded(-0.03, 0.37, 1.03, 0.47, shade(tub, 1.08), 0.1)
    if chance(rng, 0.5):
        pen.rect(0.1, 0.42, 0.26, 0.75, make_fabric(rng))


def draw_washbasin(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a washbasin with its tap on a cabinet."""
    bowl, wood, metal = palette.ceramic, palette.wood, palette.metal
    pen.shadow(0.0, 0.93, 1.0, 1.06)
    pen.rect(0.06, 0.48, 0.94, 0.95, shade(wood, 0.92))
    for left in (0.1, 0.52):
        pen.rect(left, 0.56, left + 0.38, 0.9, shade(wood, 1.15))
        pen.rect(left + 0.15, 0.6, left + 0.23, 0.63, metal)
    pen.rect(0.1, 0.95, 0.16, 1.0, shade(wood, 0.6))
    pen.rect(0.84, 0.95, 0.9, 1.0, shade(wood, 0.6))
    pen.rect(0.0, 0.42, 1.0, 0.5, shade(palette.ceramic, 0.8))
    pen.polygon([(0.14, 0.22), (0.86, 0.22), (0.72, 0.43), (0.28, 0.43)], bowl)
    pen.ellipse(0.12, 0.15, 0.88, 0.29, shade(bowl, 1.1))
    pen.ellipse(0.18, 0.17, 0.82, 0.27, shade(bowl, 0.7))
    pen.line(
        [(0.5, 0.18), (0.5, 0.06), *curve(0.57, 0.06, 0.07, 0.06, (0.5, 1.0)), (0.64, 0.12)],
        metal,
        0.07,
    )
    for x in (0.3, 0.7):
        pen.disc(x, 0.13, 0.05, metal)


def draw_toilet(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a toilet from the side: tank, raised lid or none, bowl, foot."""
    tub = palette.ceramic
    pen.shadow(0.0, 0.93, 1.0, 1.06)
    pen.polygon([(0.2, 0.6), (0.7, 0.6), (0.62, 0.95), (0.26, 0.95)], shade(tub, 0.86))
    pen.rounded(0.18, 0.92, 0.72, 1.0, shade(tub, 0.8), 0.05)
    pen.rounded(0.0, 0.12, 0.3, 0.6, shade(tub, 0.95), 0.06)
    pen.rounded(-0.03, 0.07, 0.33, 0.15, shade(tub, 1.08), 0.05)
    pen.rect(0.22, 0.2, 0.28, 0.24, palette.metal)
    pen.polygon(
        [(0.16, 0.52), (1.0, 0.52), (0.96, 0.64), (0.84, 0.74), (0.66, 0.8), (0.24, 0.8)], tub
    )
    pen.rounded(0.16, 0.48, 1.02, 0.56, shade(tub, 0.72), 0.04)
    if chance(rng, 0.5):
        pen.polygon([(0.26, 0.5), (0.34, 0.5), (0.46, 0.02), (0.38, 0.0)], shade(tub, 0.9))
    else:
        pen.rounded(0.2, 0.43, 0.98, 0.5, shade(tub, 1.08), 0.04)


def draw_mirror(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a round or oval mirror in a frame, with gleams."""
    frame = mix(palette.metal, palette.wood, rng.random())
    glass = hsv(rng.random(), rng.uniform(0.03, 0.2), rng.uniform(0.7, 0.95))
    inset = rng.uniform(0.0, 0.12)
    pen.ellipse(inset, 0.0, 1 - inset, 1.0, frame)
    pen.ellipse(inset + 0.08, 0.08, 0.92 - inset, 0.92, glass)
    gleam = mix(glass, WHITE, 0.75)
    pen.polygon([(0.36, 0.14), (0.5, 0.1), (0.24, 0.6), (0.18, 0.46)], gleam)
    pen.polygon([(0.7, 0.3), (0.76, 0.36), (0.42, 0.86), (0.36, 0.82)], gleam)
    if chance(rng, 0.4):  # rays around it
        for ray in range(16):
            pen.leaf(
                0.5 + 0.44 * math.cos(2 * math.pi * ray / 16),
                0.5 + 0.44 * math.sin(2 * math.pi * ray / 16),
                ray / 16,
                0.12,
                0.06,
                frame,
            )


def draw_painting(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a framed picture with a mount: bold shapes, nothing else of the catalogue."""
    frame = mix(palette.wood, palette.metal, rng.random())
    mount = make_light_fabric(rng)
    pen.rect(0.0, 0.0, 1.0, 1.0, frame)
    pen.rect(0.07, 0.07, 0.93, 0.93, mount)
    with pen.clipped(0.2, 0.2, 0.8, 0.8) as art:
        art.rect(0, 0, 1, 1, make_fabric(rng))
        style = rng.randrange(3)
        if style == 0:
            for _ in range(3):
                art.disc(rng.random(), rng.random(), rng.uniform(0.18, 0.35), make_fabric(rng))
        elif style == 1:
            for stripe in range(3):
                x = rng.uniform(-0.1, 0.3) + stripe * 0.35
                art.polygon([(x, 0), (x + 0.2, 0), (x + 0.05, 1), (x - 0.15, 1)], make_fabric(rng))
        else:
            for _ in range(3):
                x, y = rng.uniform(0, 0.6), rng.uniform(0, 0.6)
                art.rect(
                    x, y, x + rng.uniform(0.2, 0.5), y + rng.uniform(0.2, 0.5), make_fabric(rng)
                )
    pen.line([(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8), (0.2, 0.2)], shade(mount, 0.7), 0.015)


def draw_television(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a wide screen on two feet on a low cabinet, switched on or off."""
    body = (30, 31, 36)
    wood = palette.wood
    if chance(rng, 0.5):
        picture = hsv(rng.random(), rng.uniform(0.3, 0.8), rng.uniform(0.4, 0.9))
        other = make_fabric(rng)
    else:
        picture, other = (58, 62, 72), (40, 42, 50)
    pen.rect(0.06, 0.8, 0.94, 1.0, shade(wood, 0.95))
    pen.rect(0.0, 0.77, 1.0, 0.83, shade(wood, 1.2))
    pen.rect(0.485, 0.84, 0.515, 1.0, shade(wood, 0.65))
    pen.line([(0.25, 0.66), (0.2, 0.78)], body, 0.035)
    pen.line([(0.75, 0.66), (0.8, 0.78)], body, 0.035)
    pen.rounded(0.02, 0.02, 0.98, 0.7, body, 0.04)
    with pen.clipped(0.06, 0.07, 0.94, 0.63) as screen:
        screen.gradient(0, 1, picture, shade(picture, 0.7))
        screen.polygon([(0.0, 0.9), (0.4, 0.5), (0.7, 0.8), (1.0, 0.55), (1, 1), (0, 1)], other)
        screen.polygon([(0.1, 0), (0.3, 0), (0.0, 0.7), (0.0, 0.25)], mix(picture, WHITE, 0.3))
    pen.disc(0.5, 0.665, 0.012, (220, 60, 60))


def draw_window(
    pen: Pen, rng: random.Random, palette: Palette, view: View, weather: Weather
) -> None:
    """Draws a window or glass door with a view, with curtains drawn aside."""
    frame = mix(palette.wood, WHITE, rng.choice((0.0, 0.5, 0.9)))
    with pen.clipped(0.03, 0.03, 0.97, 0.95) as pane:
        draw_view(pane, rng, view, weather)
    edge = 0.045
    pen.rect(0.0, 0.0, 1.0, edge, frame)
    pen.rect(-0.02, 0.93, 1.02, 1.0, shade(frame, 0.9))
    pen.rect(0.0, 0.0, edge, 1.0, frame)
    pen.rect(1 - edge, 0.0, 1.0, 1.0, frame)
    bars = rng.choice(((), (0.5,), (0.34, 0.66)))
    for x in bars:
        pen.rect(x - 0.012, 0.0, x + 0.012, 0.95, frame)
    if chance(rng, 0.6):
        cloth = make_fabric(rng)
        for left, right in ((-0.08, 0.09), (0.91, 1.08)):
            pen.rect(left, -0.06, right, 1.04, cloth)
            for fold in range(3):
                x = left + (right - left) * (fold + 0.7) / 3.4
                pen.line([(x, -0.06), (x, 1.04)], shade(cloth, 0.78), 0.012)
        pen.rect(-0.12, -0.09, 1.12, -0.045, shade(palette.metal, 0.9))


def draw_plant(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a plant in a pot: broad leaves, swords, or a little tree."""
    pot = make_fabric(rng)
    leaf = palette.leaf
    pen.shadow(0.15, 0.93, 0.85, 1.05)
    style = rng.randrange(3)
    if style == 0:
        for stem in range(9):
            turn = -0.25 + (stem - 4) * 0.05
            tone = shade(leaf, 0.8 + 0.1 * (stem % 4))
            pen.leaf(0.5, 0.74, turn, rng.uniform(0.75, 0.95), 0.24, tone)
    elif style == 1:
        for blade in range(8):
            turn = -0.25 + (blade - 3.5) * 0.022
            tone = shade(leaf, 0.8 + 0.12 * (blade % 3))
            pen.leaf(0.3 + blade * 0.057, 0.76, turn, rng.uniform(0.8, 1.15), 0.12, tone)
    else:
        pen.rect(0.46, 0.35, 0.54, 0.8, (104, 78, 58))
        for angle in range(7):
            turn = 2 * math.pi * angle / 7
            pen.disc(
                0.5 + 0.24 * math.cos(turn),
                0.28 + 0.14 * math.sin(turn),
                0.24,
                shade(leaf, 0.8 + 0.06 * angle),
            )
        for _ in range(6):
            pen.disc(rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.42), 0.045, shade(leaf, 1.4))
    pen.polygon([(0.24, 0.72), (0.76, 0.72), (0.68, 1.0), (0.32, 1.0)], pot)
    pen.polygon([(0.56, 0.72), (0.76, 0.72), (0.68, 1.0), (0.54, 1.0)], shade(pot, 0.82))
    pen.rect(0.2, 0.68, 0.8, 0.76, shade(pot, 1.12))
