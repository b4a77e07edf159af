"""Things without a label, so that not everything in a scene means something."""

from __future__ import annotations

import math
import random

from pipeline.synthetic.canvas import Pen
from pipeline.synthetic.colours import (
    Colour,
    Palette,
    chance,
    hsv,
    make_fabric,
    make_light_fabric,
    mix,
    shade,
)


def draw_rug(pen: Pen, rng: random.Random) -> None:
    """Draws a rug on the floor, round or in perspective."""
    cloth, border = make_fabric(rng), make_fabric(rng)
    if chance(rng, 0.5):
        for inset, colour in ((0.0, border), (0.06, cloth), (0.2, border), (0.26, cloth)):
            pen.ellipse(inset, inset, 1 - inset, 1 - inset, colour)
        return
    pen.polygon([(0.12, 0), (0.88, 0), (1, 1), (0, 1)], border)
    pen.polygon([(0.17, 0.1), (0.83, 0.1), (0.92, 0.9), (0.08, 0.9)], cloth)
    if chance(rng, 0.6):
        for row in (0.3, 0.5, 0.7):
            pen.line([(0.16, row), (0.84, row)], border, 0.06)


def draw_suitcase(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a standing suitcase."""
    case = make_fabric(rng)
    pen.shadow(0, 0.9, 1, 1.08)
    pen.line([(0.35, 0.3), (0.35, 0.02), (0.65, 0.02), (0.65, 0.3)], palette.metal, 0.06)
    pen.rounded(0.12, 0.25, 0.88, 0.95, case, 0.12)
    for x in (0.3, 0.5, 0.7):
        pen.line([(x, 0.3), (x, 0.9)], shade(case, 0.8), 0.04)
    for x in (0.2, 0.7):
        pen.rect(x, 0.95, x + 0.1, 1.0, (40, 40, 44))


def draw_side_table(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a small table with a vase or books."""
    wood = palette.wood
    pen.shadow(0.1, 0.92, 0.9, 1.05)
    for x in (0.16, 0.78):
        pen.rect(x, 0.55, x + 0.06, 1.0, shade(wood, 0.75))
    pen.rounded(0.05, 0.48, 0.95, 0.56, wood, 0.04)
    if chance(rng, 0.5):
        vase = make_fabric(rng)
        pen.ellipse(0.36, 0.2, 0.64, 0.5, vase)
        pen.rect(0.44, 0.1, 0.56, 0.25, vase)
    else:
        for book in range(3):
            y = 0.48 - 0.09 * book
            pen.rect(0.24 + 0.03 * book, y - 0.08, 0.76 - 0.02 * book, y, make_fabric(rng))


def draw_pouf(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a round stool of cloth."""
    cloth = mix(make_fabric(rng), palette.floor, 0.2)
    pen.shadow(0, 0.88, 1, 1.1)
    pen.rounded(0.05, 0.45, 0.95, 1.0, cloth, 0.25)
    pen.ellipse(0.05, 0.35, 0.95, 0.65, shade(cloth, 1.15))


def draw_ball(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a ball or a round basket."""
    pen.shadow(0.1, 0.9, 0.9, 1.06)
    colour = make_fabric(rng)
    pen.disc(0.5, 0.62, 0.38, colour)
    pen.leaf(0.5, 0.25, 0.25, 0.74, 0.3, mix(colour, palette.ceramic, 0.7))


def draw_shelf(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a wall shelf with books and jars."""
    wood = palette.wood
    for row in (0.48, 0.95):
        x = 0.06
        for _ in range(rng.randint(6, 10)):
            width = rng.uniform(0.05, 0.08)
            pen.rect(x, row - rng.uniform(0.2, 0.36), x + width, row, make_fabric(rng))
            x += width + rng.uniform(0.003, 0.02)
        pen.rect(0, row, 1, row + 0.05, wood)


def draw_clock(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a square wall clock."""
    face = make_light_fabric(rng)
    pen.rounded(0.1, 0.1, 0.9, 0.9, palette.wood, 0.1)
    pen.rounded(0.18, 0.18, 0.82, 0.82, face, 0.06)
    for hand, length in ((rng.random(), 0.26), (rng.random(), 0.18)):
        angle = 2 * math.pi * hand
        pen.line(
            [(0.5, 0.5), (0.5 + length * math.cos(angle), 0.5 + length * math.sin(angle))],
            (40, 40, 44),
            0.05,
        )


def draw_towels(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a rail with towels."""
    pen.rect(0, 0.02, 1, 0.08, palette.metal)
    for left in (0.08, 0.54):
        cloth = make_fabric(rng)
        pen.rect(left, 0.05, left + 0.38, rng.uniform(0.6, 0.95), cloth)
        pen.rect(left, 0.4, left + 0.38, 0.48, shade(cloth, 0.75))


def draw_door(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a panelled door."""
    wood = mix(palette.wood, palette.wall, rng.random())
    pen.rect(0, 0, 1, 1, shade(wood, 0.75))
    pen.rect(0.08, 0.04, 0.92, 1, wood)
    for y0, y1 in ((0.1, 0.45), (0.55, 0.92)):
        pen.rect(0.22, y0, 0.78, y1, shade(wood, 0.88))
    pen.disc(0.83, 0.52, 0.05, palette.metal)


def draw_wall(pen: Pen, rng: random.Random, wall: Colour) -> None:
    """Fills the box with a plain, striped, tiled, panelled or spotted wall."""
    pen.rect(0, 0, 1, 1, wall)
    style = rng.choices(("plain", "stripes", "panels", "spots"), (50, 20, 18, 12))[0]
    other = shade(wall, rng.choice((0.9, 0.94, 1.06)))
    if style == "stripes":
        count = rng.randint(9, 22)
        for stripe in range(count):
            pen.rect(stripe / count, 0, (stripe + 0.5) / count, 1, other)
    elif style == "panels":
        count = rng.randint(3, 5)
        for panel in range(count):
            left, right = (panel + 0.1) / count, (panel + 0.9) / count
            pen.line(
                [(left, 0.62), (right, 0.62), (right, 0.95), (left, 0.95), (left, 0.62)],
                shade(wall, 0.85),
                0.01,
            )
        pen.rect(0, 0.54, 1, 0.57, shade(wall, 0.88))
    elif style == "spots":
        for row in range(7):
            for column in range(11):
                x, y = (column + 0.5 * (row % 2)) / 10.5, (row + 0.5) / 7
                pen.leaf(x, y, -0.25, 0.035, 0.025, shade(wall, 0.88))


def draw_tiles(pen: Pen, rng: random.Random, wall: Colour) -> None:
    """Fills the box with tiles."""
    pen.rect(0, 0, 1, 1, wall)
    joint = shade(wall, rng.choice((0.82, 0.88, 1.12)))
    rows = rng.randint(6, 11)
    columns = rng.randint(8, 14)
    for row in range(1, rows):
        pen.line([(0, row / rows), (1, row / rows)], joint, 0.005)
    for column in range(1, columns):
        pen.line([(column / columns, 0), (column / columns, 1)], joint, 0.005)


def draw_floor(pen: Pen, rng: random.Random, floor: Colour) -> None:
    """Fills the box with a floor of planks or slabs that run to a point above it."""
    pen.gradient(0, 1, shade(floor, 0.92), shade(floor, 1.06))
    joint = shade(floor, rng.choice((0.8, 0.87)))
    if chance(rng, 0.7):
        count = rng.randint(8, 14)
        for plank in range(-count, 2 * count):
            x = plank / count
            pen.line([(0.5 + (x - 0.5) * 0.7, 0), (0.5 + (x - 0.5) * 1.7, 1)], joint, 0.008)
    if chance(rng, 0.4):
        for row in (0.1, 0.24, 0.44, 0.7):
            pen.line([(0, row), (1, row)], joint, 0.008)


def draw_lawn(pen: Pen, rng: random.Random) -> None:
    """Fills the box with grass, sand or gravel."""
    ground = hsv(rng.choice((0.1, 0.12, 0.25, 0.3, 0.36)), rng.uniform(0.2, 0.55), 0.7)
    pen.gradient(0, 1, shade(ground, 0.9), shade(ground, 1.05))
    for _ in range(60):
        x, y = rng.random(), rng.random()
        pen.leaf(x, y, -0.25, 0.05, 0.015, shade(ground, rng.choice((0.85, 1.12))))
