"""The contact sheet: images of the tables with their published tags, and some that failed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq  # type: ignore[import-untyped]
from PIL import Image, ImageDraw, ImageFont, ImageOps

from demo.verify import read_rows
from pipeline.images.decode import DecodedImage, decode

Kind = Literal["right", "wrong", "missed"]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

TAGGED, FAILED = 14, 2
COLUMNS = 4
_MAX_PIXELS = 50_000_000

_WIDTH, _HEIGHT = 320, 240  # of a picture
_GAP, _MARGIN, _HEAD, _FOOT = 24, 40, 104, 56
_TEXT_HEIGHT = 132  # below a picture: its id and up to three lines of tags
_CHIP_HEIGHT, _CHIP_PADDING, _CHIP_GAP = 24, 9, 6
_CHIP_LINES = 3

_PAPER, _INK, _PALE = "#f7f5f1", "#22262b", "#858b93"
_COLOURS: dict[Kind, tuple[str, str, str]] = {  # fill, edge, text
    "right": ("#dff0e2", "#8cc79a", "#17582b"),
    "wrong": ("#fbe1dd", "#e39b90", "#8d2416"),
    "missed": (_PAPER, "#b9bec5", "#6c727a"),
}
_MEANINGS: dict[Kind, str] = {
    "right": "published and there",
    "wrong": "published, not there",
    "missed": "there, not published",
}
_BROKEN = "#e8e4dc"


@dataclass(frozen=True)
class Chip:
    """A label below a picture.

    Attributes:
        text: Label and, where it was published, score.
        kind: What the truth says about it.
    """

    text: str
    kind: Kind


@dataclass(frozen=True)
class Card:
    """A picture and what is said below it.

    Attributes:
        title: The image's id.
        picture: None where there is none to show.
        chips: Labels.
        reason: Why the image failed; None for a tagged one.
        detail: The reason in words.
    """

    title: str
    picture: Image.Image | None
    chips: tuple[Chip, ...] = ()
    reason: str | None = None
    detail: str = ""


def write_sheet(path: Path, *, tables: Path, truth: Path, title: str, subtitle: str) -> None:
    """Draw the sheet from the tables.

    Args:
        path: A PNG file.
        tables: Folder of the table set.
        truth: True labels by image_id and version.
        title: First line of the sheet.
        subtitle: Second line.
    """
    draw_sheet(read_cards(tables, truth), title=title, subtitle=subtitle).save(path, optimize=True)


def read_cards(tables: Path, truth: Path) -> list[Card]:
    """Cards of tagged images, together of as many labels as fit, and of failed ones."""
    images = sorted(read_rows(tables, "images"), key=lambda row: str(row["image_id"]))
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for tag in read_rows(tables, "image_tags"):
        scores[tag["image_id"]][tag["label"]] = tag["score"]
    labels = {
        (row["image_id"], row["version"]): set(row["labels"])
        for row in pq.read_table(truth).to_pylist()
        if row["labels"] is not None
    }
    tagged = {row["image_id"]: row for row in images if row["status"] == "tagged"}
    chosen = choose_images({image_id: scores[image_id] for image_id in tagged}, TAGGED)
    cards = [
        Card(
            image_id,
            read_picture(tagged[image_id]["uri"]),
            make_chips(scores[image_id], labels[image_id, tagged[image_id]["image_version"]]),
        )
        for image_id in chosen
    ]
    reasons = {row["reason"]: row for row in reversed(images) if row["status"] == "failed"}
    told = sorted(reasons, key=lambda reason: (reason != "truncated", reason != "not_an_image"))
    return cards + [
        Card(
            reasons[reason]["image_id"],
            None,
            reason=reason,
            detail=reasons[reason]["detail"] or "",
        )
        for reason in told[:FAILED]
    ]


def choose_images(scores: Mapping[str, Mapping[str, float]], count: int) -> list[str]:
    """Images that together have as many labels as possible, a greedy choice.

    Args:
        scores: Published tags by image.
        count: Images to choose, at most.
    """
    left = dict(scores)
    shown: dict[str, int] = defaultdict(int)
    chosen: list[str] = []
    while left and len(chosen) < count:
        best = min(left, key=lambda one: (-sum(1 / 9 ** shown[label] for label in left[one]), one))
        chosen.append(best)
        for label in left.pop(best):
            shown[label] += 1
    return chosen


def make_chips(scores: Mapping[str, float], truth: set[str]) -> tuple[Chip, ...]:
    """Published tags, best first, then what the picture shows besides."""
    ranked = sorted(scores, key=lambda label: (-scores[label], label))
    published = [
        Chip(f"{_words(label)} {scores[label]:.2f}", "right" if label in truth else "wrong")
        for label in ranked
    ]
    return (*published, *(Chip(_words(label), "missed") for label in sorted(truth - {*scores})))


def _words(label: str) -> str:
    return label.replace("_", " ")


def read_picture(path: str) -> Image.Image | None:
    """The picture as a viewer shows it; None where it cannot be had any more."""
    file = Path(path)
    if not file.exists():
        return None
    decoded = decode(file.read_bytes(), max_pixels=_MAX_PIXELS, cover=2 * _HEIGHT)
    return decoded.image if isinstance(decoded, DecodedImage) else None


def draw_sheet(cards: Sequence[Card], *, title: str, subtitle: str) -> Image.Image:
    """Lay the cards out in rows below a title."""
    rows = -(-len(cards) // COLUMNS)
    width = 2 * _MARGIN + COLUMNS * _WIDTH + (COLUMNS - 1) * _GAP
    height = _HEAD + rows * (_HEIGHT + _TEXT_HEIGHT) + _FOOT
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 28), title, _INK, _font(28))
    draw.text((_MARGIN, 66), subtitle, _PALE, _font(16))
    for place, card in enumerate(cards):
        row, column = divmod(place, COLUMNS)
        corner = (_MARGIN + column * (_WIDTH + _GAP), _HEAD + row * (_HEIGHT + _TEXT_HEIGHT))
        _draw_card(sheet, draw, card, corner)
    left = _MARGIN
    for kind, meaning in _MEANINGS.items():
        left = _draw_chip(draw, (left, height - 44), Chip(meaning, kind)) + 2 * _CHIP_GAP
    return sheet


def _draw_card(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, card: Card, corner: tuple[int, int]
) -> None:
    left, top = corner
    frame = (left, top, left + _WIDTH, top + _HEIGHT)
    if card.picture is not None:
        fitted = ImageOps.fit(card.picture, (_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)
        mask = Image.new("L", (_WIDTH, _HEIGHT))
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, _WIDTH - 1, _HEIGHT - 1), 8, 255)
        sheet.paste(fitted, corner, mask)
    else:
        draw.rounded_rectangle(frame, 8, _BROKEN)
        _draw_broken(draw, (left + _WIDTH // 2, top + _HEIGHT // 2))
    top += _HEIGHT + 8
    draw.text((left, top), card.title, _PALE, _font(13))
    top += 20
    if card.reason is not None:
        _draw_chip(draw, (left, top), Chip(f"failed: {_words(card.reason)}", "wrong"))
        for line in list(wrap(card.detail, _font(14), _WIDTH))[:3]:
            top += 24 if line else 0
            draw.text((left, top + 6), line, _INK, _font(14))
        return
    for x, y, chip in place_chips(card.chips):
        _draw_chip(draw, (left + x, top + y), chip)


def place_chips(chips: Sequence[Chip]) -> Iterator[tuple[int, int, Chip]]:
    """Where chips stand below a picture, in lines; those beyond the last line are left out."""
    x = line = 0
    for chip in chips:
        width = _chip_width(chip)
        if x > 0 and x + width > _WIDTH:
            x, line = 0, line + 1
        if line == _CHIP_LINES:
            return
        yield x, line * (_CHIP_HEIGHT + _CHIP_GAP), chip
        x += width + _CHIP_GAP


def wrap(text: str, font: Font, width: int) -> Iterator[str]:
    """Lines of a text that are no wider than ``width`` pixels, cut between words."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            yield line
            longer = word
        line = longer
    if line:
        yield line


def _draw_chip(draw: ImageDraw.ImageDraw, corner: tuple[int, int], chip: Chip) -> int:
    """Draw a chip; where it ends."""
    left, top = corner
    fill, edge, ink = _COLOURS[chip.kind]
    right = left + _chip_width(chip)
    draw.rounded_rectangle((left, top, right, top + _CHIP_HEIGHT), _CHIP_HEIGHT // 2, fill, edge)
    middle = (left + _CHIP_PADDING, top + _CHIP_HEIGHT / 2)
    draw.text(middle, chip.text, ink, _font(14), anchor="lm")
    return right


def _chip_width(chip: Chip) -> int:
    return round(_font(14).getlength(chip.text)) + 2 * _CHIP_PADDING


def _draw_broken(draw: ImageDraw.ImageDraw, centre: tuple[int, int]) -> None:
    """A torn picture frame."""
    x, y = centre
    draw.rounded_rectangle((x - 42, y - 32, x + 42, y + 32), 6, outline="#b4ac9d", width=3)
    draw.ellipse((x - 28, y - 20, x - 14, y - 6), fill="#b4ac9d")
    draw.polygon(((x - 34, y + 24), (x - 8, y - 4), (x + 18, y + 24)), fill="#c9c2b5")
    tear = [(x + 10, y - 36), (x + 2, y - 14), (x + 14, y - 2), (x + 4, y + 16), (x + 14, y + 36)]
    draw.line(tear, _BROKEN, 9, joint="curve")


def _font(size: int) -> Font:
    return ImageFont.load_default(size)
