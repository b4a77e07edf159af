"""Furniture of drawn scenes. Every function fills its pen's box; what stands, stands on y = 1."""

from __future__ import annotations

import random

from pipeline.synthetic.canvas import Pen, curve
from pipeline.synthetic.colours import (
    BLACK,
    WHITE,
    Palette,
    chance,
    hsv,
    make_fabric,
    make_light_fabric,
    mix,
    shade,
)


def draw_bed(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a bed from the foot end or from the side."""
    linen, cover, wood = make_light_fabric(rng), make_fabric(rng), palette.wood
    pen.shadow(-0.05, 0.88, 1.05, 1.08)
    if chance(rng, 0.5):
        top = rng.uniform(0.0, 0.15)
        pen.rounded(0.03, top, 0.97, 0.8, wood, 0.16)
        pen.rounded(0.08, top + 0.06, 0.92, 0.7, shade(wood, 1.18), 0.12)
        pen.rect(0.1, 0.9, 0.16, 1.0, shade(wood, 0.6))
        pen.rect(0.84, 0.9, 0.9, 1.0, shade(wood, 0.6))
        pen.polygon([(0.08, 0.42), (0.92, 0.42), (1.0, 0.93), (0.0, 0.93)], linen)
        for left in (0.13, 0.53):
            pen.rounded(left, 0.28, left + 0.34, 0.5, shade(linen, 0.9), 0.12)
            pen.rounded(left + 0.01, 0.28, left + 0.33, 0.47, mix(linen, WHITE, 0.6), 0.12)
        pen.polygon([(0.06, 0.56), (0.94, 0.56), (1.0, 0.93), (0.0, 0.93)], cover)
        pen.polygon([(0.06, 0.56), (0.94, 0.56), (0.95, 0.63), (0.05, 0.63)], shade(cover, 1.25))
        pen.rect(0.0, 0.82, 1.0, 0.94, shade(cover, 0.78))
        return
    pen.rounded(0.0, 0.1, 0.09, 1.0, wood, 0.08)
    pen.rounded(0.93, 0.5, 1.0, 1.0, wood, 0.08)
    pen.rect(0.05, 0.78, 0.96, 0.9, shade(wood, 0.82))
    pen.rounded(0.07, 0.55, 0.95, 0.8, linen, 0.12)
    pen.rounded(0.09, 0.38, 0.32, 0.58, mix(linen, WHITE, 0.5), 0.2)
    pen.rounded(0.12, 0.44, 0.32, 0.6, shade(linen, 0.9), 0.2)
    pen.polygon([(0.36, 0.52), (0.94, 0.5), (0.95, 0.86), (0.4, 0.86)], cover)
    pen.polygon([(0.36, 0.52), (0.45, 0.52), (0.49, 0.86), (0.4, 0.86)], shade(cover, 1.25))


def draw_cot(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a baby's cot with bars and a canopy."""
    wood, veil = palette.wood, make_light_fabric(rng)
    pen.shadow(-0.05, 0.9, 1.05, 1.06)
    pen.polygon([(0.5, 0.0), (0.0, 0.62), (0.24, 0.62)], veil)
    pen.polygon([(0.5, 0.0), (0.24, 0.62), (0.5, 0.45)], shade(veil, 0.9))
    pen.disc(0.5, 0.03, 0.035, wood)
    pen.rect(0.06, 0.72, 0.94, 0.84, make_fabric(rng))
    for bar in range(8):
        x = 0.05 + bar * 0.123
        pen.rect(x, 0.48, x + 0.035, 0.92, wood)
    pen.rounded(0.0, 0.43, 1.0, 0.5, shade(wood, 1.15), 0.05)
    pen.rect(0.02, 0.86, 0.98, 0.92, shade(wood, 0.85))
    for x in (0.0, 0.93):
        pen.rect(x, 0.43, x + 0.07, 1.0, shade(wood, 0.9))


def draw_sofa(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a sofa for two or three with cushions."""
    cloth = make_fabric(rng)
    pen.shadow(-0.04, 0.9, 1.04, 1.08)
    for x in (0.08, 0.86):
        pen.rect(x, 0.88, x + 0.05, 1.0, shade(palette.wood, 0.7))
    pen.rounded(0.08, 0.18, 0.92, 0.7, shade(cloth, 0.85), 0.16)
    seats = rng.choice((2, 3))
    for seat in range(seats):
        left = 0.13 + seat * 0.74 / seats
        pen.rounded(left, 0.24, left + 0.72 / seats, 0.6, shade(cloth, 0.97), 0.1)
        pen.rounded(left, 0.56, left + 0.72 / seats, 0.74, shade(cloth, 1.18), 0.08)
    pen.rounded(0.08, 0.7, 0.92, 0.9, shade(cloth, 0.8), 0.06)
    for left in (0.0, 0.86):
        pen.rounded(left, 0.4, left + 0.14, 0.92, shade(cloth, 1.05), 0.14)
    for _ in range(rng.randint(1, 3)):
        x = rng.uniform(0.16, 0.68)
        pen.polygon(
            [(x, 0.36), (x + 0.15, 0.33), (x + 0.17, 0.58), (x + 0.02, 0.6)], make_fabric(rng)
        )


def draw_armchair(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a wing chair: a tall round back, one seat, splayed legs."""
    cloth, wood = make_fabric(rng), shade(palette.wood, 0.75)
    pen.shadow(0.0, 0.9, 1.0, 1.06)
    pen.line([(0.22, 0.8), (0.12, 1.0)], wood, 0.06)
    pen.line([(0.78, 0.8), (0.88, 1.0)], wood, 0.06)
    pen.ellipse(0.12, 0.0, 0.88, 0.85, shade(cloth, 0.85))
    pen.ellipse(0.21, 0.07, 0.79, 0.8, cloth)
    for row, x in ((0.2, 0.5), (0.3, 0.36), (0.3, 0.64), (0.4, 0.5)):
        pen.disc(x, row, 0.022, shade(cloth, 0.65))
    pen.rounded(0.18, 0.54, 0.82, 0.76, shade(cloth, 1.2), 0.14)
    pen.rounded(0.12, 0.7, 0.88, 0.86, shade(cloth, 0.8), 0.1)
    for left in (0.03, 0.79):
        pen.rounded(left, 0.42, left + 0.18, 0.84, shade(cloth, 1.06), 0.18)


def draw_desk(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a desk with drawers, a laptop and a chair."""
    wood, chair = palette.wood, make_fabric(rng)
    pen.shadow(-0.02, 0.92, 1.02, 1.06)
    pen.rect(0.02, 0.42, 0.08, 1.0, shade(wood, 0.7))
    pen.rect(0.6, 0.42, 0.96, 0.96, shade(wood, 0.85))
    for drawer in range(3):
        y = 0.46 + drawer * 0.17
        pen.rect(0.63, y, 0.93, y + 0.14, shade(wood, 1.1))
        pen.rect(0.74, y + 0.05, 0.82, y + 0.08, palette.metal)
    pen.rect(0.0, 0.36, 1.0, 0.43, shade(wood, 1.15))
    screen = hsv(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.3, 1.0))
    pen.polygon([(0.3, 0.05), (0.66, 0.05), (0.7, 0.33), (0.26, 0.33)], (52, 54, 60))
    pen.polygon([(0.33, 0.08), (0.63, 0.08), (0.66, 0.3), (0.3, 0.3)], screen)
    pen.polygon([(0.22, 0.36), (0.74, 0.36), (0.7, 0.32), (0.26, 0.32)], (140, 142, 148))
    pen.rounded(0.2, 0.5, 0.46, 0.74, chair, 0.1)
    pen.rounded(0.17, 0.74, 0.49, 0.82, shade(chair, 0.8), 0.06)
    pen.rect(0.31, 0.82, 0.35, 0.95, palette.metal)
    pen.line([(0.2, 1.0), (0.33, 0.93), (0.46, 1.0)], palette.metal, 0.035)


def draw_lamp(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a lit floor lamp, with a shade or on an arc."""
    light = mix(make_light_fabric(rng), hsv(rng.random(), 0.6, 0.95), rng.choice((0.1, 0.5)))
    metal = palette.metal
    pen.shadow(0.1, 0.94, 0.9, 1.04, 0.3)
    pen.ellipse(0.22, 0.93, 0.78, 1.0, shade(metal, 0.8))
    if chance(rng, 0.65):
        pen.glow(0.5, 0.16, 0.95)
        pen.rect(0.455, 0.25, 0.545, 0.97, metal)
        pen.polygon([(0.26, 0.02), (0.74, 0.02), (1.0, 0.32), (0.0, 0.32)], light)
        pen.polygon([(0.6, 0.02), (0.74, 0.02), (1.0, 0.32), (0.72, 0.32)], shade(light, 0.88))
        pen.rect(0.0, 0.3, 1.0, 0.325, shade(light, 0.72))
        return
    pen.glow(0.7, 0.3, 0.9)
    pen.line([(0.3, 0.97), (0.3, 0.3), *curve(0.5, 0.24, 0.22, 0.2, (0.5, 1.0))], metal, 0.075)
    pen.polygon([*curve(0.7, 0.4, 0.3, 0.2, (0.5, 1.0))], shade(light, 0.92))
    pen.ellipse(0.4, 0.37, 1.0, 0.43, mix(light, WHITE, 0.8))


def draw_chandelier(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a chandelier hanging from the ceiling: arms, candles, drops."""
    metal = mix(palette.metal, hsv(0.12, 0.5, 0.8), rng.uniform(0.2, 0.8))
    pen.glow(0.5, 0.5, 0.8)
    pen.rect(0.485, 0.0, 0.515, 0.4, metal)
    pen.disc(0.5, 0.34, 0.06, metal)
    for reach in (0.46, 0.24):
        pen.arc(0.5, 0.5, reach, 0.26, (0.0, 0.5), metal, 0.035)
        for side in (-1, 1):
            x = 0.5 + side * reach
            pen.rect(x - 0.022, 0.34, x + 0.022, 0.5, (250, 246, 232))
            pen.leaf(x, 0.35, -0.25, 0.14, 0.06, (255, 214, 110))
            pen.ellipse(x - 0.05, 0.48, x + 0.05, 0.53, metal)
    drop = mix(WHITE, hsv(rng.random(), 0.3, 1.0), 0.4)
    for i in range(7):
        x = 0.14 + 0.12 * i
        y = 0.6 + 0.18 * (1 - abs(i - 3) / 3)
        pen.leaf(x, y, 0.25, 0.12, 0.05, drop)
    pen.leaf(0.5, 0.76, 0.25, 0.22, 0.1, drop)


def draw_fireplace(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a fireplace with a mantel and a fire of logs."""
    stone = hsv(rng.random(), rng.uniform(0.02, 0.4), rng.uniform(0.45, 0.95))
    pen.shadow(-0.03, 0.92, 1.03, 1.06)
    pen.rect(0.06, 0.12, 0.94, 1.0, stone)
    for row in range(6):
        y = 0.16 + row * 0.14
        pen.line([(0.06, y), (0.94, y)], shade(stone, 0.82), 0.012)
        for x in range(4):
            left = 0.16 + x * 0.24 - 0.12 * (row % 2)
            pen.line([(left, y), (left, y + 0.14)], shade(stone, 0.82), 0.012)
    pen.rect(0.0, 0.03, 1.0, 0.13, shade(palette.wood, 1.05))
    pen.polygon(
        [(0.22, 1.0), (0.22, 0.55), *curve(0.5, 0.55, 0.28, 0.2, (0.5, 1.0)), (0.78, 1.0)],
        (28, 22, 22),
    )
    pen.glow(0.5, 0.85, 0.5)
    for middle, size in ((0.35, 0.3), (0.5, 0.45), (0.64, 0.32)):
        pen.leaf(middle, 0.95, -0.25, size, size * 0.5, (232, 106, 30))
        pen.leaf(middle, 0.95, -0.25, size * 0.6, size * 0.3, (255, 208, 80))
    pen.line([(0.27, 0.97), (0.73, 0.91)], (94, 62, 42), 0.06)
    pen.line([(0.27, 0.91), (0.73, 0.97)], (76, 50, 36), 0.06)


def draw_piano(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a grand piano with its lid raised, and its stool."""
    body = rng.choice(((24, 24, 28), (236, 232, 226), shade(palette.wood, 0.8), (94, 30, 34)))
    edge = mix(shade(body, 0.75), WHITE, 0.2)
    pen.shadow(-0.02, 0.93, 1.02, 1.06)
    for x in (0.16, 0.5, 0.86):
        pen.polygon(
            [(x - 0.035, 0.66), (x + 0.035, 0.66), (x + 0.015, 1.0), (x - 0.015, 1.0)],
            shade(body, 0.9),
        )
    pen.polygon(
        [(0.16, 0.48), (0.3, 0.02), (0.62, 0.0), (0.95, 0.12), (1.0, 0.26), (0.96, 0.48)], edge
    )
    pen.polygon([(0.2, 0.47), (0.33, 0.06), (0.62, 0.04), (0.92, 0.14), (0.94, 0.47)], body)
    pen.line([(0.74, 0.5), (0.84, 0.16)], (196, 164, 96), 0.025)
    pen.rounded(0.1, 0.46, 1.0, 0.68, body, 0.06)
    pen.rect(0.1, 0.46, 1.0, 0.49, edge)
    pen.rect(0.0, 0.55, 0.34, 0.62, (250, 248, 240))
    for key in range(8):
        x = 0.02 + key * 0.04
        pen.rect(x, 0.55, x + 0.02, 0.59, BLACK)
    pen.rect(0.0, 0.62, 0.34, 0.68, edge)
    pen.rect(0.02, 0.82, 0.28, 0.88, shade(body, 1.1))
    pen.line([(0.05, 0.88), (0.05, 1.0)], edge, 0.03)
    pen.line([(0.25, 0.88), (0.25, 1.0)], edge, 0.03)


def draw_billiard_table(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a billiard table in perspective, with balls and a cue."""
    cloth = hsv(rng.choice((0.38, 0.42, 0.58, 0.98, 0.8)), rng.uniform(0.45, 0.8), 0.55)
    wood = palette.wood
    pen.shadow(-0.02, 0.9, 1.02, 1.08)
    for x in (0.06, 0.86):
        pen.polygon(
            [(x, 0.72), (x + 0.1, 0.72), (x + 0.08, 1.0), (x + 0.02, 1.0)], shade(wood, 0.65)
        )
    pen.polygon([(0.16, 0.12), (0.84, 0.12), (1.0, 0.68), (0.0, 0.68)], shade(wood, 1.1))
    pen.rect(0.0, 0.68, 1.0, 0.82, shade(wood, 0.8))
    pen.polygon([(0.21, 0.18), (0.79, 0.18), (0.91, 0.6), (0.09, 0.6)], cloth)
    for x, y in ((0.2, 0.17), (0.5, 0.16), (0.8, 0.17), (0.08, 0.61), (0.5, 0.63), (0.92, 0.61)):
        pen.ellipse(x - 0.035, y - 0.035, x + 0.035, y + 0.035, (20, 18, 18))
    for row in range(4):
        for ball in range(row + 1):
            x, y = 0.5 + (ball - row / 2) * 0.062, 0.28 + row * 0.045
            pen.ellipse(x - 0.03, y - 0.03, x + 0.03, y + 0.03, hsv(rng.random(), 0.8, 0.95))
    pen.ellipse(0.34, 0.47, 0.41, 0.54, (250, 250, 246))
    pen.line([(0.38, 0.5), (0.16, 0.86)], (224, 188, 130), 0.025)


def draw_treadmill(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a treadmill from the side: deck, upright, rails and console."""
    frame = mix(palette.metal, make_fabric(rng), 0.3)
    pen.shadow(-0.04, 0.9, 1.04, 1.06)
    pen.polygon([(0.0, 0.9), (0.72, 0.8), (0.98, 0.8), (1.0, 0.96), (0.0, 1.0)], shade(frame, 0.6))
    pen.polygon([(0.0, 0.86), (0.74, 0.76), (0.8, 0.82), (0.0, 0.93)], (40, 40, 44))
    pen.polygon([(0.8, 0.86), (0.9, 0.84), (0.8, 0.22), (0.72, 0.24)], frame)
    pen.line([(0.78, 0.3), (0.42, 0.4), (0.4, 0.5)], shade(frame, 0.85), 0.06)
    pen.line([(0.46, 0.4), (0.6, 0.8)], shade(frame, 0.75), 0.04)
    pen.polygon([(0.52, 0.04), (0.9, 0.14), (0.86, 0.3), (0.56, 0.26)], shade(frame, 0.5))
    pen.polygon(
        [(0.56, 0.08), (0.8, 0.14), (0.78, 0.24), (0.59, 0.21)], hsv(rng.random(), 0.5, 0.95)
    )


def draw_dining_table(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a laid round table with a cloth, between two chairs."""
    cloth, wood = make_light_fabric(rng), palette.wood
    cloth = mix(cloth, make_fabric(rng), rng.choice((0.0, 0.3, 0.8)))
    pen.shadow(0.0, 0.9, 1.0, 1.06)
    for outer, inner in ((0.0, 0.2), (1.0, 0.8)):
        pen.line([(outer, 0.12), (outer, 1.0)], wood, 0.045)
        pen.line([(outer, 0.62), (inner, 0.62), (inner, 1.0)], wood, 0.045)
        for y in (0.18, 0.3, 0.42):
            pen.line([(outer, y), (outer + (inner - outer) * 0.25, y)], shade(wood, 1.2), 0.04)
    pen.polygon([(0.14, 0.46), (0.86, 0.46), (0.8, 0.94), (0.2, 0.94)], shade(cloth, 0.86))
    for fold in (0.32, 0.46, 0.6, 0.72):
        pen.line([(fold, 0.5), (fold + (fold - 0.5) * 0.12, 0.94)], shade(cloth, 0.72), 0.018)
    pen.ellipse(0.12, 0.36, 0.88, 0.56, cloth)
    for x in (0.28, 0.72):
        pen.ellipse(x - 0.1, 0.41, x + 0.1, 0.48, (250, 250, 248))
        pen.ellipse(x - 0.06, 0.425, x + 0.06, 0.465, hsv(rng.random(), 0.5, 0.75))
    for x in (0.42, 0.6):
        pen.rect(x - 0.008, 0.34, x + 0.008, 0.45, (226, 232, 236))
        pen.polygon(
            [(x - 0.05, 0.22), (x + 0.05, 0.22), (x + 0.025, 0.35), (x - 0.025, 0.35)],
            mix((236, 240, 244), hsv(rng.random(), 0.8, 0.6), 0.35),
        )
    pen.rect(0.49, 0.3, 0.53, 0.46, (250, 240, 220))
    pen.leaf(0.51, 0.31, -0.25, 0.13, 0.06, (255, 190, 80))


def draw_bar(pen: Pen, rng: random.Random, palette: Palette) -> None:
    """Draws a bar: shelves of bottles, a counter, stools."""
    wood, seat = palette.wood, make_fabric(rng)
    pen.rect(0.04, 0.0, 0.96, 0.56, shade(wood, 0.55))
    for shelf in (0.24, 0.48):
        x = 0.08
        for _ in range(11):
            glass = hsv(rng.random(), rng.uniform(0.3, 0.8), rng.uniform(0.45, 0.95))
            height = rng.uniform(0.12, 0.17)
            pen.rounded(x, shelf - height, x + 0.045, shelf, glass, 0.02)
            pen.rect(x + 0.015, shelf - height - 0.045, x + 0.03, shelf - height + 0.01, glass)
            x += rng.uniform(0.066, 0.08)
        pen.rect(0.04, shelf, 0.96, shelf + 0.025, shade(wood, 1.25))
    pen.shadow(-0.02, 0.93, 1.02, 1.06)
    pen.rect(0.0, 0.6, 1.0, 0.97, shade(wood, 0.9))
    for panel in range(5):
        left = 0.03 + panel * 0.195
        pen.rect(left, 0.66, left + 0.16, 0.94, shade(wood, 0.76))
    pen.rect(-0.03, 0.55, 1.03, 0.62, shade(palette.ceramic, 0.92))
    for x in (0.2, 0.5, 0.8):
        pen.rounded(x - 0.075, 0.68, x + 0.075, 0.74, seat, 0.03)
        pen.line([(x - 0.04, 0.74), (x - 0.07, 1.0)], palette.metal, 0.018)
        pen.line([(x + 0.04, 0.74), (x + 0.07, 1.0)], palette.metal, 0.018)
        pen.line([(x - 0.055, 0.89), (x + 0.055, 0.89)], palette.metal, 0.014)
