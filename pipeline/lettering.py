"""Text in pictures: a font of this machine, lines that fit, and no character that is lost.

Pillow's own font holds hardly more than ASCII. A font of the system is taken where a usual one is
installed; characters it lacks too are written as escapes, so that two ids never look the same.
"""

from __future__ import annotations

from functools import cache

from PIL import ImageFont

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

_USUAL = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf",
    "Arial.ttf",
)
_NO_CHARACTER = "\uffff"  # every font draws its sign for a missing one


@cache
def font(size: int) -> Font:
    """The font of a size in pixels."""
    for name in _USUAL:
        try:
            # Raqm, the other engine, refuses some characters outright.
            return ImageFont.truetype(name, size, layout_engine=ImageFont.Layout.BASIC)
        except OSError:  # not installed
            continue
    return ImageFont.load_default(size)


def shorten(text: str, *, size: int, room: int) -> str:
    """One line of a text, no wider than ``room`` pixels; what is cut ends with an ellipsis."""
    line = legible(" ".join(text.split()))
    if font(size).getlength(line) <= room:
        return line
    fits, too_long = 0, len(line)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if font(size).getlength(line[:middle] + "…") <= room:
            fits = middle
        else:
            too_long = middle
    return line[:fits].rstrip() + "…"


def wrap(text: str, *, size: int, room: int, most: int) -> list[str]:
    """Lines of a text, cut between words; the last of ``most`` holds all the rest."""
    lines: list[str] = []
    for word in legible(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and (len(lines) == most or font(size).getlength(longer) <= room):
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def legible(text: str) -> str:
    """The text with escapes for characters that the font lacks."""
    return "".join(_legible(character) for character in text)


@cache
def _legible(character: str) -> str:
    if character == "…" or (character.isprintable() and _is_in_font(character)):
        return character
    return character.encode("unicode-escape").decode()


def _is_in_font(character: str) -> bool:
    if character.isascii():
        return True
    drawn, missing = (font(16).getmask(one) for one in (character, _NO_CHARACTER))
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))
