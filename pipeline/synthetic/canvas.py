# ruff: noqa: PLR0917  strokes take coordinates in their order: x0, y0, x1, y1
"""A canvas with light, and a pen that draws in the coordinates of a box.

Objects are drawn with fractions of their box, so that the same strokes make a large bed and a
small one, turned either way. Knows neither objects nor labels.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from pipeline.synthetic.colours import Colour, mix

Point = tuple[float, float]
Box = tuple[float, float, float, float]

# Drawn so much larger than needed and scaled down: smooth edges, and halving is cheap.
_OVERSAMPLING = 2
# Light needs no detail: its map is so much smaller than the picture.
_LIGHT_SCALE = 24
_GRAIN_SIDE = 2048
_FULL_LIGHT = 214


class Canvas:
    """A picture being drawn, with a map of light and shadow of its own.

    Args:
        width: Pixels of the finished picture.
        height: Pixels of the finished picture.
    """

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)
        self.width = width * _OVERSAMPLING
        self.height = height * _OVERSAMPLING
        self.image = Image.new("RGB", (self.width, self.height))
        self.draw = ImageDraw.Draw(self.image)
        self._light_size = (
            max(24, self.width // _LIGHT_SCALE),
            max(24, self.height // _LIGHT_SCALE),
        )
        self._light = Image.new("L", self._light_size, _FULL_LIGHT)
        self._light_draw = ImageDraw.Draw(self._light)

    def cut_out(self, box: Box) -> Canvas:
        """Returns a canvas of the size of a part of this one, for what must not leave that part.

        Args:
            box: In pixels of the canvas.
        """
        part = Canvas(1, 1)
        part.width = max(1, round(box[2]) - round(box[0]))
        part.height = max(1, round(box[3]) - round(box[1]))
        part.image = Image.new("RGB", (part.width, part.height))
        part.draw = ImageDraw.Draw(part.image)
        return part

    def paste(self, part: Canvas, box: Box) -> None:
        """Lays a finished part on its place."""
        self.image.paste(part.image, (round(box[0]), round(box[1])))

    def lit(self, box: Box, level: float, *, blend: float = 1.0) -> None:
        """Lights or darkens an ellipse of the picture.

        Args:
            box: In pixels of the canvas.
            level: 0 for black, 1 for the usual light, at most 1.19 for a lamp's glow.
            blend: How much of it; the rest stays as it was.
        """
        across, down = self._light_size[0] / self.width, self._light_size[1] / self.height
        left, top, right, bottom = box
        scaled = (left * across, top * down, right * across, bottom * down)
        centre = (
            min(max(int((scaled[0] + scaled[2]) / 2), 0), self._light_size[0] - 1),
            min(max(int((scaled[1] + scaled[3]) / 2), 0), self._light_size[1] - 1),
        )
        before = self._light.getpixel(centre)
        standing = float(before) if isinstance(before, int | float) else float(_FULL_LIGHT)
        value = standing + (level * _FULL_LIGHT - standing) * blend
        self._light_draw.ellipse(scaled, fill=min(255, max(0, round(value))))

    def dim(self, level: float, side: float) -> None:
        """Sets the light of the whole picture: a level, brighter on one side.

        Args:
            level: 1 for the usual light.
            side: From -1 (light from the left) to 1 (from the right).
        """
        columns = 8
        width, height = self._light_size
        for column in range(columns):
            slope = 1 + 0.22 * side * (2 * column / (columns - 1) - 1)
            value = min(255, round(_FULL_LIGHT * level * slope))
            self._light_draw.rectangle(
                (column * width / columns, 0, (column + 1) * width / columns, height), fill=value
            )

    def finish(
        self, rng: random.Random, *, tint: Colour, exposure: float, grain: int
    ) -> Image.Image:
        """Returns the picture at its size, under its light, with the grain of a sensor.

        Args:
            rng: Chooses the grain's place.
            tint: Colour of the light; white leaves colours as they are.
            exposure: 1 leaves the usual light as it is; above it brighter.
            grain: 0 to 3, how grainy.
        """
        picture = self.image.reduce(_OVERSAMPLING)
        soft = self._light.filter(ImageFilter.GaussianBlur(self._light_size[0] / 26))
        light = soft.resize(self.size, Image.Resampling.BILINEAR)
        # Multiplying can only darken; the curve gives back what the usual light lacks to white.
        picture = ImageChops.multiply(picture, Image.merge("RGB", (light, light, light)))
        gains = np.array(tint)[:, None] * (exposure / _FULL_LIGHT)
        curves = (np.arange(256) * gains + 0.5).clip(0, 255).astype(np.uint8)
        picture = picture.point(curves.ravel().tolist())
        if grain:
            film = _film(grain)
            x = rng.randrange(_GRAIN_SIDE - self.size[0] + 1)
            y = rng.randrange(_GRAIN_SIDE - self.size[1] + 1)
            spots = film.crop((x, y, x + self.size[0], y + self.size[1]))
            picture = ImageChops.add(picture, spots, 1, -128)
        return picture


@functools.cache
def _film(grain: int) -> Image.Image:
    """Returns one large square of grain around 128, the same in every process."""
    noise = np.random.default_rng(grain).standard_normal(
        (_GRAIN_SIDE, _GRAIN_SIDE, 3), dtype=np.float32
    )
    noise *= 1.0 + 1.6 * grain
    noise += 128.5
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Pen:
    """Draws on a canvas in fractions of a box, (0, 0) its top left and (1, 1) its bottom right.

    Attributes:
        canvas: Where it draws.
        left: Of the box, in pixels of the canvas.
        top: Of the box.
        width: Of the box.
        height: Of the box.
        mirrored: Whether x runs from right to left.
    """

    canvas: Canvas
    left: float
    top: float
    width: float
    height: float
    mirrored: bool = False

    def at(self, x: float, y: float) -> Point:
        """Returns the pixel of a point of the box."""
        across = 1 - x if self.mirrored else x
        return self.left + across * self.width, self.top + y * self.height

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Box:
        """Returns the pixels of a part of the box: left, top, right, bottom."""
        first, second = self.at(x0, y0), self.at(x1, y1)
        return (
            min(first[0], second[0]),
            min(first[1], second[1]),
            max(first[0], second[0]),
            max(first[1], second[1]),
        )

    def within(self, x0: float, y0: float, x1: float, y1: float, *, mirrored: bool = False) -> Pen:
        """Returns a pen for a part of the box."""
        left, top, right, bottom = self.box(x0, y0, x1, y1)
        return Pen(self.canvas, left, top, right - left, bottom - top, self.mirrored != mirrored)

    @contextlib.contextmanager
    def clipped(self, x0: float, y0: float, x1: float, y1: float) -> Iterator[Pen]:
        """Lends a pen for a part of the box whose strokes end at the part's edges."""
        box = self.box(x0, y0, x1, y1)
        part = self.canvas.cut_out(box)
        yield Pen(part, 0, 0, part.width, part.height, self.mirrored)
        self.canvas.paste(part, box)

    def fraction(self) -> Box:
        """Returns the pen's box in fractions of the picture."""
        width, height = self.canvas.width, self.canvas.height
        return (
            self.left / width,
            self.top / height,
            (self.left + self.width) / width,
            (self.top + self.height) / height,
        )

    def thick(self, share: float) -> int:
        """Returns a line width in pixels for a share of the box's shorter side."""
        return max(1, round(share * min(self.width, self.height)))

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        """Fills a rectangle."""
        self.canvas.draw.rectangle(self.box(x0, y0, x1, y1), fill=fill)

    def rounded(
        self, x0: float, y0: float, x1: float, y1: float, fill: Colour, radius: float = 0.1
    ) -> None:
        """Fills a rectangle with round corners; the radius is a share of the shorter side."""
        box = self.box(x0, y0, x1, y1)
        pixels = min(radius * min(self.width, self.height), (box[2] - box[0]) / 2)
        pixels = min(pixels, (box[3] - box[1]) / 2)
        self.canvas.draw.rounded_rectangle(box, pixels, fill=fill)

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        """Fills an ellipse."""
        self.canvas.draw.ellipse(self.box(x0, y0, x1, y1), fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """Fills a circle; the radius is a share of the box's shorter side."""
        column, row = self.at(x, y)
        pixels = radius * min(self.width, self.height)
        self.canvas.draw.ellipse(
            (column - pixels, row - pixels, column + pixels, row + pixels), fill=fill
        )

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        """Fills a polygon."""
        self.canvas.draw.polygon([self.at(x, y) for x, y in points], fill=fill)

    def line(self, points: Sequence[Point], fill: Colour, width: float = 0.02) -> None:
        """Draws a line; the width is a share of the box's shorter side."""
        self.canvas.draw.line(
            [self.at(x, y) for x, y in points], fill=fill, width=self.thick(width), joint="curve"
        )

    def arc(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        turns: tuple[float, float],
        fill: Colour,
        width: float = 0.02,
    ) -> None:
        """Draws part of an ellipse's edge.

        Args:
            x: Centre.
            y: Centre.
            rx: Radius across.
            ry: Radius down.
            turns: Start and end, in turns, clockwise from the right.
            fill: Colour.
            width: Of the line, a share of the box's shorter side.
        """
        self.line(curve(x, y, rx, ry, turns), fill, width)

    def leaf(
        self, x: float, y: float, turn: float, length: float, breadth: float, fill: Colour
    ) -> None:
        """Fills a leaf that starts at a point.

        Args:
            x: Where it grows from.
            y: Where it grows from.
            turn: Direction in turns, clockwise from the right; -0.25 is upwards.
            length: Share of the box's shorter side.
            breadth: Share of the box's shorter side.
            fill: Colour.
        """
        side = min(self.width, self.height)
        column, row = self.at(x, y)
        angle = 2 * math.pi * turn
        along = (math.cos(angle) * length * side, math.sin(angle) * length * side)
        if self.mirrored:
            along = (-along[0], along[1])
        across = (-along[1] / length * breadth / 2, along[0] / length * breadth / 2)
        outline = [(0.0, 0.0), (0.25, 0.8), (0.5, 1.0), (0.8, 0.6), (1.0, 0.0)]
        outline += [(0.8, -0.6), (0.5, -1.0), (0.25, -0.8)]
        self.canvas.draw.polygon(
            [
                (column + along[0] * a + across[0] * b, row + along[1] * a + across[1] * b)
                for a, b in outline
            ],
            fill=fill,
        )

    def gradient(
        self, y0: float, y1: float, top: Colour, bottom: Colour, *, x0: float = 0.0, x1: float = 1.0
    ) -> None:
        """Fills a rectangle with colours that change from top to bottom."""
        left, upper, right, lower = self.box(x0, y0, x1, y1)
        steps = max(2, min(48, round((lower - upper) / 3)))
        height = (lower - upper) / steps
        for step in range(steps):
            row = upper + step * height
            self.canvas.draw.rectangle(
                (left, row, right, row + height), fill=mix(top, bottom, step / (steps - 1))
            )

    def shadow(self, x0: float, y0: float, x1: float, y1: float, strength: float = 0.45) -> None:
        """Darkens an ellipse softly, for what stands on a floor."""
        self.canvas.lit(self.box(x0, y0, x1, y1), 1 - strength)

    def glow(self, x: float, y: float, radius: float) -> None:
        """Lights a circle softly; the radius is a share of the box's shorter side."""
        column, row = self.at(x, y)
        pixels = radius * min(self.width, self.height)
        for ring, blend in ((1.0, 0.4), (0.6, 0.7)):
            reach = pixels * ring
            self.canvas.lit(
                (column - reach, row - reach, column + reach, row + reach), 1.2, blend=blend
            )


def curve(
    x: float, y: float, rx: float, ry: float, turns: tuple[float, float], steps: int = 14
) -> list[Point]:
    """Returns points on part of an ellipse's edge, in turns clockwise from the right."""
    start, end = turns
    angles = (2 * math.pi * (start + (end - start) * i / (steps - 1)) for i in range(steps))
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]
