"""The picture of a review: a row for each label that drifts, with bars and sample images. Pillow.

Knows neither Spark nor the model: it is given a :class:`pipeline.tagging.drift.Review`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from pipeline.config import DecodeConfig, FetchConfig
from pipeline.images.loader import ImageLoader, ImageRequest, LoadedImage, RememberedImage
from pipeline.images.preprocess import Preprocessing
from pipeline.images.reasons import Failure, Reason
from pipeline.lettering import font, shorten, wrap
from pipeline.tagging.drift import Drift, Review, Sample

Picture = Image.Image | Failure

_MARGIN, _GAP = 40, 12
_LEFT, _LEFT_GAP = 360, 36  # what is said of a label stands left of its images
_TILE_WIDTH, _TILE_HEIGHT, _TILE_TEXT = 144, 108, 46
_FEWEST_ACROSS, _MOST_ACROSS = 4, 8
_LABEL_HEIGHT, _ROW_PADDING = 160, 30
_BAR_LEFT, _BAR_WIDTH, _BAR_HEIGHT, _BAR_STEP = 56, 176, 13, 20

_PAPER, _INK, _PALE, _LINE = "#f7f5f1", "#22262b", "#747b84", "#ddd8ce"
_BEFORE, _NOW, _DRIFTING, _ALARM = "#b3bac2", "#6f94b8", "#d4604c", "#8d2416"
_BROKEN, _BROKEN_INK = "#dedad2", "#5f6670"

_NO_URI = Failure(Reason.NO_SOURCE, "it came as bytes in the manifest: no uri is known")
_CHANGES = {
    "lost": "lost by images such as these",
    "gained": "new on images such as these",
    "rescored": "another score on images such as these",
}


def sheet_place(folder: str, run_id: str) -> str:
    """Where the picture of a run is written."""
    return f"{folder.rstrip('/')}/audit-{run_id}.png"


def load_pictures(
    uris: Sequence[str], fetch: FetchConfig, decode: DecodeConfig
) -> dict[str, Picture]:
    """Small pictures of images, or why there are none."""
    size = Preprocessing(size=(_TILE_HEIGHT, _TILE_WIDTH))
    requests = [ImageRequest(uri, uri, None) for uri in uris]
    with ImageLoader(fetch, decode, size, scaled_decoding=True) as loader:
        loaded = {request.key: image for request, image in loader.load(requests)}
    return {
        uri: Image.fromarray(image.pixels) if isinstance(image, LoadedImage) else image.failure
        for uri, image in loaded.items()
        if not isinstance(image, RememberedImage)  # nothing is remembered here
    }


def draw_sheet(review: Review, pictures: Mapping[str, Picture]) -> bytes:
    """Draw a review.

    Args:
        review: What was read of the run.
        pictures: By uri, from :func:`load_pictures`.

    Returns:
        A PNG.
    """
    most = max((len(drift.samples) for drift in review.drifts), default=0)
    across = min(_MOST_ACROSS, max(_FEWEST_ACROSS, most))
    tiles = across * (_TILE_WIDTH + _GAP) - _GAP
    width = 2 * _MARGIN + _LEFT + _LEFT_GAP + tiles
    told = _told(review)
    head = _MARGIN + 74 + 24 * len(told) + 20
    heights = [_row_height(drift, across) for drift in review.drifts]
    sheet = Image.new("RGB", (width, head + sum(heights) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    room = width - 2 * _MARGIN
    title = f"Run {review.run_id}: {review.state}"
    _text(draw, (_MARGIN, _MARGIN - 8), title, size=28, room=room)
    _text(draw, (_MARGIN, _MARGIN + 32), _about(review), _PALE, size=15, room=room)
    for place, (line, colour) in enumerate(told):
        _text(draw, (_MARGIN, _MARGIN + 64 + 24 * place), line, colour, size=16, room=room)
    top = head
    for drift, height in zip(review.drifts, heights, strict=True):
        draw.line((_MARGIN, top, width - _MARGIN, top), _LINE)
        _draw_label(draw, drift, (_MARGIN, top + _ROW_PADDING))
        corner = (_MARGIN + _LEFT + _LEFT_GAP, top + _ROW_PADDING)
        _draw_samples(sheet, drift, pictures, corner, across)
        top += height
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _about(review: Review) -> str:
    versions = f"model {review.model_version[:12]}, taxonomy {review.taxonomy_version[:12]}"
    return f"{review.job}, as of {review.as_of:%Y-%m-%d %H:%M} UTC, {versions}; {review.reference}"


def _told(review: Review) -> list[tuple[str, str]]:
    """Lines below the title, with their colours."""
    if review.figures is None:
        return [("No audit has looked at this run yet.", _INK)]
    if not review.findings:
        return [("No limit was passed.", _INK)]
    lines = []
    for finding in review.findings:
        if finding.label is None:
            reasons = ", ".join(f"{count} {reason}" for reason, count in review.reasons.items())
            of_reasons = f": {reasons}" if finding.what == "failed" and reasons else ""
            lines.append((f"{finding}, {finding.images:,} images{of_reasons}", _ALARM))
    labels = {(one.task, one.label) for one in review.findings if one.label is not None}
    if not labels:
        lines.append(("No label drifts.", _INK))
    elif len(labels) > len(review.drifts):
        shown = f"{len(labels)} labels drift; the {len(review.drifts)} of most images:"
        lines.append((shown, _INK))
    return lines


def _row_height(drift: Drift, across: int) -> int:
    lines = -(-len(drift.samples) // across)
    tiles = lines * (_TILE_HEIGHT + _TILE_TEXT + _GAP) - _GAP
    return max(_LABEL_HEIGHT, tiles) + 2 * _ROW_PADDING


def _draw_label(draw: ImageDraw.ImageDraw, drift: Drift, corner: tuple[int, int]) -> None:
    """Name of a label, and its rate and score as bars."""
    left, top = corner
    figures = drift.figures
    _text(draw, (left, top - 4), figures.label, size=20, room=_LEFT)
    _text(draw, (left, top + 22), figures.task, _PALE, size=13, room=_LEFT)
    rates = (drift.rate_before, drift.rate_now)
    counts = (figures.before, figures.now)
    greatest = max(*rates, 1e-9)  # a rare label's bars are as long as a common one's
    rate_bars = [
        (rate / greatest, f"{rate:.1%} ({count:,})")
        for rate, count in zip(rates, counts, strict=True)
    ]
    scores = (figures.score_before, figures.score_now)
    score_bars = [(score or 0.0, "none" if score is None else f"{score:.3f}") for score in scores]
    top += 46
    names = ("before", "now")
    for name, what, bars in (
        ("rate", "share of images", rate_bars),
        ("score", "mean score", score_bars),
    ):
        drifting = name in drift.passed
        told = f"{what}: beyond its limit" if drifting else what
        _text(draw, (left, top), told, _ALARM if drifting else _PALE, size=12, room=_LEFT)
        colours = (_BEFORE, _DRIFTING if drifting else _NOW)
        for place, ((share, number), colour) in enumerate(zip(bars, colours, strict=True)):
            line = top + 17 + place * _BAR_STEP
            draw.text((left, line + _BAR_HEIGHT // 2), names[place], _INK, font(13), anchor="lm")
            _draw_bar(draw, (left + _BAR_LEFT, line), share, number, colour)
        top += 17 + 2 * _BAR_STEP + 6


def _draw_bar(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], share: float, number: str, colour: str
) -> None:
    left, top = corner
    end = left + round(_BAR_WIDTH * min(1.0, share))
    if end > left:
        draw.rectangle((left, top, end, top + _BAR_HEIGHT), colour)
    draw.line((left, top - 1, left, top + _BAR_HEIGHT + 1), _PALE)
    draw.text((end + 8, top + _BAR_HEIGHT // 2), number, _INK, font(13), anchor="lm")


def _draw_samples(
    sheet: Image.Image,
    drift: Drift,
    pictures: Mapping[str, Picture],
    corner: tuple[int, int],
    across: int,
) -> None:
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    room = across * (_TILE_WIDTH + _GAP) - _GAP
    # In the padding above the tiles, so that they stand level with the label's name.
    told = _CHANGES[drift.change] if drift.samples else "no image to show"
    _text(draw, (left, top - 20), told, _PALE, size=12, room=room)
    for place, sample in enumerate(drift.samples):
        line, column = divmod(place, across)
        x = left + column * (_TILE_WIDTH + _GAP)
        y = top + line * (_TILE_HEIGHT + _TILE_TEXT + _GAP)
        picture = _NO_URI if sample.uri is None else pictures.get(sample.uri, _NO_URI)
        _draw_tile(sheet, sample, picture, (x, y))


def _draw_tile(
    sheet: Image.Image, sample: Sample, picture: Picture, corner: tuple[int, int]
) -> None:
    """A picture, or a grey tile with the reason; below it the image's id and its scores."""
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    if isinstance(picture, Failure):
        draw.rectangle((left, top, left + _TILE_WIDTH - 1, top + _TILE_HEIGHT - 1), _BROKEN)
        inside, room = left + 8, _TILE_WIDTH - 16
        reason = picture.reason.value.replace("_", " ")
        _text(draw, (inside, top + 8), reason, _BROKEN_INK, size=14, room=room)
        lines = wrap(picture.detail, size=11, room=room, most=5)
        for place, line in enumerate(lines):
            _text(draw, (inside, top + 30 + 14 * place), line, _BROKEN_INK, size=11, room=room)
    else:
        sheet.paste(picture, corner)
    top += _TILE_HEIGHT + 5
    _text(draw, (left, top), sample.image_id, size=12, room=_TILE_WIDTH)
    _text(draw, (left, top + 17), _scores(sample), _PALE, size=12, room=_TILE_WIDTH)


def _scores(sample: Sample) -> str:
    before, now = sample.score_before, sample.score_now
    if before is not None and now is not None:
        return f"{before:.2f} -> {now:.2f}"
    if before is not None:
        return f"before {before:.2f}"
    return "" if now is None else f"now {now:.2f}"


def _text(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    colour: str = _INK,
    *,
    size: int,
    room: int,
) -> None:
    draw.text(corner, shorten(text, size=size, room=room), colour, font(size))
