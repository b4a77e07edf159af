"""What the audit judges, and what a person is shown of it. Numbers by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.audit_sheet import draw_sheet, load_pictures, sheet_place
from pipeline.audit_text import write_audit
from pipeline.config import AuditConfig, DecodeConfig, FetchConfig
from pipeline.lettering import font, legible, shorten, wrap
from pipeline.tagging.audit import AuditFigures, Finding, LabelFigures, as_json, from_json, judge
from pipeline.tagging.drift import Review, Sample, find_drifts

LIMITS = AuditConfig()  # 200 images; shares 0.2, 0.5, 0.2; 50 images of a label; 0.5; 0.2


def label(before: int, now: int, scores: tuple[float, float] = (0.7, 0.7), name: str = "pool"):
    return LabelFigures(
        task="scene",
        label=name,
        before=before,
        now=now,
        score_before=scores[0] if before else None,
        score_now=scores[1] if now else None,
    )


def compared(*labels: LabelFigures, images: int = 1000, reference: str = "standing"):
    return AuditFigures(
        tagged=images,
        failed=0,
        untagged=0,
        reference=reference,
        images_before=images,
        images_now=images,
        labels=labels,
    )


def whats(figures: AuditFigures, limits: AuditConfig = LIMITS) -> list[str]:
    return [finding.what for finding in judge(figures, limits)]


# --- shares


@pytest.mark.parametrize(
    ("figures", "found"),
    [
        (AuditFigures(tagged=800, failed=200), []),
        (AuditFigures(tagged=799, failed=201), ["failed"]),
        (AuditFigures(tagged=0, failed=200), ["failed"]),
        (AuditFigures(tagged=0, failed=199), []),
        (AuditFigures(tagged=200, failed=0, untagged=100), []),
        (AuditFigures(tagged=200, failed=0, untagged=101), ["untagged"]),
        (AuditFigures(tagged=199, failed=0, untagged=199), []),
        (AuditFigures(tagged=0, failed=0, removed=40, standing=200), []),
        (AuditFigures(tagged=0, failed=0, removed=41, standing=200), ["removed"]),
        (AuditFigures(tagged=0, failed=0, removed=199, standing=199), []),
        (AuditFigures(tagged=0, failed=0, removed=5), []),
        (AuditFigures(tagged=0, failed=0), []),
    ],
)
def test_a_share_holds_beyond_its_limit_and_with_enough_images(figures, found) -> None:
    assert whats(figures) == found


def test_a_finding_tells_share_limit_and_images() -> None:
    (finding,) = judge(AuditFigures(tagged=300, failed=100), LIMITS)

    assert finding == Finding(what="failed", images=100, got=0.25, limit=0.2, now=0.25)
    assert str(finding) == "failed share 25.0% (limit 20.0%)"


# --- labels


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        (100, 50, []),
        (100, 49, ["rate"]),
        (50, 100, []),
        (49, 100, ["rate"]),
        (50, 0, ["rate"]),
        (0, 50, ["rate"]),
        (49, 0, []),
        (0, 49, []),
        (0, 0, []),
    ],
)
def test_a_rate_that_halves_or_doubles_holds(before: int, now: int, found: list[str]) -> None:
    assert whats(compared(label(before, now))) == found


@pytest.mark.parametrize(
    ("before", "now", "scores", "found"),
    [
        (100, 100, (0.9, 0.71), []),
        (100, 100, (0.9, 0.69), ["score"]),
        (100, 100, (0.6, 0.81), ["score"]),
        (100, 49, (0.9, 0.6), ["rate"]),
        (60, 60, (0.9, 0.6), ["score"]),
        (49, 60, (0.9, 0.6), []),
    ],
)
def test_a_mean_score_that_moves_holds(before, now, scores, found) -> None:
    assert whats(compared(label(before, now, scores))) == found


def test_labels_are_not_judged_without_images_on_both_sides() -> None:
    nothing = replace(compared(label(500, 0)), images_before=0)

    assert whats(nothing) == []
    assert whats(replace(nothing, images_before=1000, images_now=0)) == []


def test_rates_are_compared_whatever_the_number_of_images() -> None:
    figures = replace(compared(label(500, 100)), images_now=200)

    assert whats(figures) == []
    (finding,) = judge(replace(figures, labels=(label(500, 20),)), LIMITS)
    # A tenth instead of half of 200 images: 80 of them miss the label.
    assert (finding.before, finding.now, finding.images) == (0.5, 0.1, 80)
    assert finding.got == pytest.approx(0.8)


def test_what_differs_by_chance_holds_only_where_images_are_the_same() -> None:
    """40 of 200 and 15 of 200: 3.6 standard errors. 40 and 10: 4.5."""
    limits = AuditConfig(min_label_images=10)
    by_chance, by_more = label(40, 15), label(40, 10)

    assert whats(compared(by_chance, images=200), limits) == ["rate"]
    assert whats(compared(by_chance, images=200, reference="night-1"), limits) == []
    assert whats(compared(by_more, images=200, reference="night-1"), limits) == ["rate"]


@given(
    seed=st.integers(0, 2**32 - 1), rate=st.floats(0.01, 0.6), images=st.sampled_from([200, 3000])
)
def test_two_samples_of_one_catalogue_are_hardly_ever_held(seed, rate, images) -> None:
    drawn = np.random.default_rng(seed).binomial(images, rate, (2, 50))
    limits = AuditConfig(min_label_images=1, max_rate_change=0.0, max_score_change=1.0)
    labels = [label(int(a), int(b), name=f"label {k}") for k, (a, b) in enumerate(drawn.T)]

    assert len(judge(compared(*labels, images=images, reference="night-1"), limits)) <= 1


def test_findings_come_in_the_order_of_what_explains_most() -> None:
    figures = AuditFigures(
        tagged=1000,
        failed=500,
        untagged=600,
        removed=500,
        standing=1000,
        reference="standing",
        images_before=1000,
        images_now=1000,
        labels=(
            label(300, 100, name="bed"),
            label(100, 100, (0.9, 0.1), name="lamp"),
            label(500, 0, name="pool"),
            label(300, 100, name="bath"),
            label(100, 90, name="sofa"),
        ),
    )

    assert [(one.what, one.label, one.images) for one in judge(figures, LIMITS)] == [
        ("failed", None, 500),
        ("removed", None, 500),
        ("rate", "pool", 500),
        ("rate", "bath", 200),
        ("rate", "bed", 200),
        ("score", "lamp", 100),
        ("untagged", None, 600),
    ]


def test_the_ledger_gives_back_what_it_was_given() -> None:
    figures = compared(label(100, 0, name="naïve ключ 🛏"), label(60, 60, (0.9, 0.1)))
    findings = judge(figures, LIMITS)

    assert len(findings) == 2
    assert from_json(as_json(figures, findings)) == (figures, findings)
    assert from_json(as_json(AuditFigures(tagged=0, failed=0), ())) == (
        AuditFigures(tagged=0, failed=0),
        (),
    )


def test_findings_in_words_fit_into_a_line() -> None:
    told = [str(one) for one in judge(compared(label(100, 0), label(60, 60, (0.9, 0.1))), LIMITS)]

    assert told == [
        "rate of scene/pool 10.0% -> 0.0% (limit of change 50%)",
        "score of scene/pool 0.900 -> 0.100 (limit of change 0.200)",
    ]


# --- what a person is shown


def review(figures: AuditFigures | None, **more) -> Review:
    findings = judge(figures, LIMITS) if figures else ()
    drifts = find_drifts(figures, findings) if figures else ()
    about = {"run_id": "night-2", "job": "tag_nightly", "state": "held"}
    versions = {"model_version": "ab" * 32, "taxonomy_version": "cd" * 32}
    told = {"figures": figures, "findings": findings, "drifts": drifts, **more}
    return Review(**about, **versions, as_of=datetime(2026, 3, 2, tzinfo=UTC), **told)


def test_a_label_drifts_once_whatever_it_passes() -> None:
    both = label(400, 100, (0.9, 0.5), name="both")
    figures = compared(both, label(100, 300, name="more"), label(80, 90, (0.2, 0.5), name="up"))

    drifts = find_drifts(figures, judge(figures, LIMITS))

    assert [(d.figures.label, d.change, d.falls, set(d.passed)) for d in drifts] == [
        ("both", "lost", True, {"rate", "score"}),
        ("more", "gained", False, {"rate"}),
        ("up", "rescored", False, {"score"}),
    ]
    assert (drifts[0].rate_before, drifts[0].rate_now) == (0.4, 0.1)


def test_the_table_tells_findings_reasons_figures_and_the_labels_that_changed_most() -> None:
    labels = [label(100, 100 - k, name=f"label {k:02d}") for k in range(13)]
    figures = replace(compared(*labels, label(90, 0, name="pool 床")), failed=500)
    stream = io.StringIO()

    write_audit(review(figures, reasons={"not_found": 499, "corrupt": 1}), stream)

    told = stream.getvalue()
    lines = [line.split() for line in told.splitlines()]
    assert ["failed", "0.333", "0.333", "0.200", "500"] in lines
    assert ["rate", "scene/pool", "床", "0.090", "0.000", "1.000", "0.500", "90"] in lines
    assert ["not_found", "499"] in lines
    assert told.count("scene/label") == 9  # and pool: ten
    assert "label 12" in told
    assert "label 03" not in told
    assert "not counted" in told


def test_a_sheet_is_drawn_of_whatever_there_is(tmp_path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (300, 30), (1, 200, 3)).save(picture)
    figures = replace(compared(label(400, 0, name="床" * 200), label(90, 0)), failed=900)
    found = review(figures, reasons={"not_found": 900})
    uris = [str(picture), str(tmp_path / "none.jpg"), None, "not-loaded.jpg"]
    samples = tuple(
        Sample(image_id=f"ключ\n{uri}" * 9, uri=uri, score_before=0.9, score_now=None)
        for uri in uris * 3
    )
    drifts = (replace(found.drifts[0], samples=samples), found.drifts[1])
    found = replace(found, drifts=drifts)

    assert found.uris == [uri for uri in uris if uri]
    pictures = load_pictures(found.uris[:2], FetchConfig(), DecodeConfig())
    with Image.open(io.BytesIO(draw_sheet(found, pictures))) as sheet:
        counted = {colour: count for count, colour in sheet.getcolors(1 << 24)}
    assert counted[1, 200, 3] == 3 * 144 * 108
    grey = (0xDE, 0xDA, 0xD2)
    assert 9 * 144 * 108 * 0.7 < counted[grey] < 9 * 144 * 108

    for empty in (review(None), review(compared(label(100, 100))), review(compared())):
        with Image.open(io.BytesIO(draw_sheet(empty, {}))) as sheet:
            assert sheet.width > 800
    assert sheet_place("s3://bucket/reports/", "night-2") == "s3://bucket/reports/audit-night-2.png"


@given(text=st.text(max_size=80), room=st.integers(20, 300))
def test_text_fits_into_its_room(text: str, room: int) -> None:
    line = shorten(text, size=12, room=room)

    assert font(12).getlength(line) <= room
    assert "\n" not in line
    if not line.endswith("…"):
        assert line == legible(" ".join(text.split()))
    lines = wrap(text, size=12, room=room, most=3)
    assert len(lines) <= 3
    assert " ".join(lines).split() == legible(text).split()


def test_characters_that_no_font_has_are_told_apart() -> None:
    assert legible("a b\\…\0\uffff\U000e0001") == "a b\\…\\x00\\uffff\\U000e0001"
