"""Pools, terraces and balconies of drawn scenes. Every function fills its pen's box."""

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


def draw_pool(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a swimming pool in perspective: coping, water with a net of light, a ladder."""
    water = hsv(rng.uniform(0.42, 0.62), rng.uniform(0.25, 0.75), rng.uniform(0.45, 0.95))
    if chance(rng, 0.25):
        water = hsv(rng.random(), rng.uniform(0.1, 0.4), rng.uniform(0.4, 0.8))
    coping = mix(palette.ceramic, palette.floor, rng.uniform(0.0, 0.4))
    lean = rng.uniform(0.1, 0.22)
    if chance(rng, 0.6):
        pen.polygon([(lean, 0.0), (1 - lean, 0.0), (1.04, 1.0), (-0.04, 1.0)], coping)
        pen.polygon(
            [(lean + 0.05, 0.08), (0.95 - lean, 0.08), (0.96, 0.9), (0.04, 0.9)], shade(water, 0.75)
        )
        pen.polygon([(lean + 0.04, 0.15), (0.96 - lean, 0.15), (0.96, 0.9), (0.04, 0.9)], water)
    else:
        pen.ellipse(-0.04, 0.0, 0.66, 1.0, coping)
        pen.ellipse(0.34, 0.0, 1.04, 1.0, coping)
        pen.rect(0.3, 0.0, 0.7, 1.0, coping)
        for tone, top in ((0.75, 0.08), (1.0, 0.16)):
            pen.ellipse(0.02, top, 0.62, 0.9, shade(water, tone))
            pen.ellipse(0.38, top, 0.98, 0.9, shade(water, tone))
            pen.rect(0.32, top, 0.68, 0.9, shade(water, tone))
    ripple = mix(water, WHITE, 0.55)
    for row in range(6):
        y = 0.26 + row * 0.11
        half = 0.26 + 0.03 * row
        x = 0.5 - half + rng.uniform(0.0, 0.06)
        while x < 0.5 + half - 0.1:
            size = rng.uniform(0.05, 0.1)
            pen.line([(x, y), (x + size / 2, y - 0.03), (x + size, y)], ripple, 0.02)
            pen.line([(x, y), (x + size / 2, y + 0.025), (x + size, y)], ripple, 0.014)
            x += size + rng.uniform(0.02, 0.09)
    metal = mix(palette.metal, WHITE, 0.5)
    for x in (0.76, 0.85):
        pen.arc(x, 0.12, 0.035, 0.22, (0.5, 1.0), metal, 0.035)
        pen.line([(x - 0.035, 0.12), (x - 0.035, 0.36)], metal, 0.035)
    if chance(rng, 0.4):  # an air ring
        x, y = rng.uniform(0.25, 0.6), rng.uniform(0.45, 0.65)
        ring = make_fabric(rng)
        pen.ellipse(x - 0.09, y - 0.1, x + 0.09, y + 0.1, ring)
        pen.ellipse(x - 0.045, y - 0.05, x + 0.045, y + 0.05, water)


def draw_sun_lounger(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a sun lounger from the side, its back raised, with a striped mat."""
    frame = mix(palette.wood, WHITE, rng.choice((0.0, 0.7)))
    mat, stripe = make_fabric(rng), make_light_fabric(rng)
    pen.shadow(-0.02, 0.88, 1.02, 1.08)
    for x in (0.2, 0.5, 0.92):
        pen.line([(x, 0.66), (x, 1.0)], shade(frame, 0.75), 0.09)
    pen.line([(0.2, 0.74), (0.36, 0.3)], shade(frame, 0.6), 0.06)
    pen.polygon([(0.0, 0.02), (0.1, 0.0), (0.46, 0.6), (0.4, 0.7)], mat)
    pen.polygon([(0.0, 0.02), (0.03, 0.0), (0.41, 0.69), (0.38, 0.71)], shade(frame, 0.9))
    pen.polygon([(0.38, 0.52), (1.0, 0.52), (1.0, 0.68), (0.38, 0.68)], mat)
    for step in range(4):
        x = 0.48 + step * 0.13
        pen.rect(x, 0.52, x + 0.06, 0.68, stripe)
    for step in range(3):
        x, y = 0.1 + step * 0.1, 0.08 + step * 0.17
        pen.polygon(
            [(x, y), (x + 0.08, y - 0.06), (x + 0.12, y + 0.01), (x + 0.04, y + 0.08)], stripe
        )
    pen.rect(0.3, 0.67, 1.0, 0.76, frame)


def draw_parasol(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws an open parasol with panels and a fringe on a pole."""
    first, second = make_fabric(rng), make_light_fabric(rng)
    pole = mix(palette.wood, WHITE, 0.3)
    pen.shadow(0.1, 0.93, 0.9, 1.06)
    pen.rect(0.475, 0.1, 0.525, 0.97, pole)
    pen.ellipse(0.34, 0.93, 0.66, 1.0, shade(palette.metal, 0.7))
    panels = 6
    rim = [
        (-0.0 + i / panels, 0.36 + 0.05 * (1 - abs(2 * i / panels - 1))) for i in range(panels + 1)
    ]
    for panel in range(panels):
        (left, low), (right, lower) = rim[panel], rim[panel + 1]
        bulge = [
            (0.5 + (left - 0.5) * 0.72, 0.14),
            (left, low),
            ((left + right) / 2, max(low, lower) + 0.035),
            (right, lower),
            (0.5 + (right - 0.5) * 0.72, 0.14),
        ]
        colour = first if panel % 2 == 0 else second
        pen.polygon([(0.5, 0.02), *bulge], shade(colour, 1.08 - 0.05 * panel))
    pen.disc(0.5, 0.02, 0.03, pole)


def draw_palm_tree(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a palm tree: a bent ringed trunk and hanging fronds."""
    trunk = hsv(rng.uniform(0.05, 0.11), rng.uniform(0.2, 0.5), rng.uniform(0.35, 0.65))
    bend = rng.uniform(-0.12, 0.12)
    pen.shadow(0.25, 0.95, 0.75, 1.04, 0.35)
    rows = 12
    for row in range(rows):
        share = row / rows
        x = 0.5 - bend + 2 * bend * share**1.6
        y = 1.0 - 0.72 * share
        half = 0.075 - 0.025 * share
        pen.polygon(
            [
                (x - half, y),
                (x + half, y),
                (x + half * 1.25, y - 0.065),
                (x - half * 1.25, y - 0.065),
            ],
            shade(trunk, 0.82 if row % 2 else 1.08),
        )
    top = (0.5 + bend, 0.28)
    fronds = 9
    for frond in range(fronds):
        turn = -0.5 + frond / (fronds - 1) * 0.5
        reach = 0.5 * rng.uniform(0.88, 1.05)
        tone = shade(palette.leaf, 0.75 + 0.12 * (frond % 4))
        along = math.cos(2 * math.pi * turn)
        tip = (top[0] + reach * along, top[1] + 0.16 - 0.3 * abs(math.sin(2 * math.pi * turn)))
        rise = (top[0] + reach * along * 0.55, min(top[1], tip[1]) - 0.1)
        drop = (top[0] + reach * along * 0.5, rise[1] + 0.1)
        pen.polygon(
            [top, (top[0] + (rise[0] - top[0]) * 0.5, rise[1] + 0.03), rise, tip, drop], tone
        )
    for nut in (-0.05, 0.04):
        pen.disc(top[0] + nut, top[1] + 0.02, 0.045, shade(trunk, 0.7))


def draw_balcony(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a balcony's railing across the box, with bars, crosses, or a balustrade."""
    rail = mix(palette.metal, WHITE, rng.choice((0.0, 0.0, 0.8)))
    if chance(rng, 0.3):
        rail = mix(palette.wood, WHITE, rng.choice((0.0, 0.6)))
    style = rng.randrange(3)
    fields = max(3, round(rng.uniform(0.8, 1.2) * pen.width / pen.height))
    pen.rect(0.0, 0.86, 1.0, 0.94, shade(rail, 0.85))
    if style == 0:
        bars = fields * 4
        for bar in range(bars):
            x = (bar + 0.5) / bars
            pen.rect(x - 0.008, 0.06, x + 0.008, 0.9, rail)
    elif style == 1:
        for panel in range(fields):
            left, right = panel / fields, (panel + 1) / fields
            pen.line([(left, 0.1), (right, 0.88)], rail, 0.05)
            pen.line([(left, 0.88), (right, 0.1)], rail, 0.05)
    else:
        stone = mix(palette.ceramic, palette.wall, 0.4)
        rail = stone
        count = fields * 2
        for baluster in range(count):
            x, half = (baluster + 0.5) / count, 0.3 / count
            pen.rect(x - half * 0.6, 0.08, x + half * 0.6, 0.9, shade(stone, 0.88))
            pen.ellipse(x - half, 0.4, x + half, 0.86, stone)
            pen.ellipse(x - half * 0.8, 0.14, x + half * 0.8, 0.4, stone)
        pen.rect(0.0, 0.84, 1.0, 1.0, shade(stone, 0.82))
    for post in range(fields + 1):
        x = post / fields
        pen.rect(x - 0.014, 0.0, x + 0.014, 0.98, shade(rail, 0.9))
    pen.rect(0.0, 0.0, 1.0, 0.13, rail)
    pen.rect(0.0, 0.1, 1.0, 0.13, shade(rail, 0.75))


def draw_awning(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws what hangs over a balcony: an awning, or a string of lights on a beam."""
    if chance(rng, 0.5):
        cloth, other = make_fabric(rng), mix(palette.wall, WHITE, 0.4)
        stripes = 9
        for stripe in range(stripes):
            left, right = stripe / stripes, (stripe + 1) / stripes
            tone = cloth if stripe % 2 else other
            pen.rect(left, 0.0, right, 0.7, tone)
            pen.ellipse(left, 0.45, right, 1.0, tone)
        return
    pen.rect(0.0, 0.0, 1.0, 0.35, shade(palette.wood, 0.7))
    for span in range(3):
        x = (span + 0.5) / 3
        points = curve(x, 0.35, 1 / 6, 0.5, (0.5, 0.0), 9)
        pen.line(points, (60, 54, 50), 0.04)
        for bulb in points[1:-1:2]:
            pen.disc(bulb[0], bulb[1] + 0.06, 0.08, (255, 224, 150))
