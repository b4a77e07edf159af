"""The report: one page that asks for nothing and trusts nobody."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from pipeline.config import EvaluateModelConfig, FiguresConfig, LabelledManifestConfig, ModelConfig
from pipeline.evaluation.assessment import assess
from pipeline.evaluation.curves import make_curves
from pipeline.evaluation.decisions import count_decisions
from pipeline.evaluation.mistakes import find_mistakes
from pipeline.evaluation.report import COLUMNS, HEADLINES, render_report
from pipeline.evaluation.scored import ScoredImages
from pipeline.evaluation.tables import make_metrics
from pipeline.evaluation.thresholds import LabelThreshold
from pipeline.taxonomy import Taxonomy, parse_taxonomy

HOSTILE = "<script>alert('x')</script>"
QUOTED = '" onload="alert(1)'


def make_taxonomy() -> Taxonomy:
    labels = [{"id": HOSTILE, "name": HOSTILE}, {"id": "q", "name": QUOTED}, {"id": "</script>"}]
    return parse_taxonomy({"tasks": [{"id": "<b>t", "kind": "multi_label", "labels": labels}]})


def make_images(taxonomy: Taxonomy, count: int = 40) -> ScoredImages:
    generator = np.random.default_rng(0)
    targets = generator.random((count, 3)) < [0.5, 0.2, 0.0]
    scores = np.clip(0.4 * targets + 0.6 * generator.random((count, 3)), 0, 1)
    return ScoredImages(
        positions=np.arange(count),
        ids=tuple(f"<i>{index}" for index in range(count)),
        splits=np.full(count, "test"),
        scores=scores.astype(np.float32),
        embeddings=np.zeros((count, 2), np.float32),
        targets=targets,
        known=np.ones_like(targets),
        left_out=Counter(),
    )


def make_report(*, calibrated: bool = True, unseen: tuple[str, ...] = ("q",)) -> str:
    taxonomy = make_taxonomy()
    images = make_images(taxonomy)
    config = EvaluateModelConfig(
        manifest=LabelledManifestConfig(path="m"),
        model=ModelConfig(uri="b"),
        output="o",
        figures=FiguresConfig(resamples=10),
    )
    assessment = assess(images, taxonomy, unseen, config)
    chosen = tuple(
        LabelThreshold(threshold=0.5, source="pooled", positives=3, estimate=0.5, reached=place > 0)
        for place in range(3)
    )
    about: dict[str, Any] = {
        "bundle": HOSTILE,
        "bundle_digest": "0" * 64,
        "licence": HOSTILE,
        "model_version": "mumic-1",
        "taxonomy_version": taxonomy.version,
        "manifest": HOSTILE,
        "split": "test",
        "left_out": {"not_an_image": 2},
        "calibration": {"goal": "precision", "precision": 0.9} if calibrated else None,
        "figures": {
            "confidence": 0.95,
            "resamples": 10,
            "precision": 0.9,
            "majority_positives": 50,
            "calibration_bins": 15,
        },
        "label_errors": 7,
        "label_errors_confident": 4,
    }
    metrics = make_metrics(assessment, taxonomy, chosen if calibrated else None, about=about)
    shown = [
        {"image_id": HOSTILE, "picture": picture, "given": [HOSTILE], "label": HOSTILE}
        | {"kind": kind, "score": 0.25}
        for kind, picture in (("wrong", "data:image/jpeg;base64,AAAA"), ("missing", None))
    ]
    curves = make_curves(
        images.scores.astype(np.float64),
        images.targets,
        images.known,
        assessment.figures.counts,
        bins=5,
    )
    return render_report(metrics=metrics, curves=curves, mistakes=shown[:1], label_errors=shown)


class Page(HTMLParser):
    """Tags, in order, with their attributes, and whether they all close."""

    VOID = frozenset({"meta", "br", "img", "input", "line", "polyline", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(make_report())


def test_names_ids_and_places_are_text_and_never_markup(page: Page) -> None:
    assert page.open == []
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)] == []
    assert "i" not in {tag for tag, _ in page.tags}
    assert HOSTILE not in make_report()


def test_the_page_asks_for_nothing_beside_itself(page: Page) -> None:
    text = make_report()
    assert not re.search(r"url\(|@import", text)
    for _, attrs in page.tags:
        for name in {"src", "href", "action", "data", "srcset"} & set(attrs):
            assert str(attrs[name]).startswith(("#", "data:image/jpeg;base64,"))
    # the name of SVG is no address that is asked for
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    policy = [a["content"] for _, a in page.tags if "http-equiv" in a]
    assert policy
    assert str(policy[0]).startswith("default-src 'none'; img-src data:")


def test_every_control_can_be_reached_and_is_named(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        if tag == "img":
            assert attrs["alt"]
        if attrs.get("tabindex") == "0":
            assert attrs["aria-label"]
        for name in ("for", "aria-labelledby"):
            if name in attrs:
                assert attrs[name] in ids
        if tag == "a":
            assert str(attrs["href"]).removeprefix("#") in ids
    headings = [attrs for tag, attrs in page.tags if tag == "th" and "aria-sort" in attrs]
    assert len(headings) == len(COLUMNS) + 2


def test_all_figures_stand_on_the_page() -> None:
    text = make_report()
    for _, title, _ in HEADLINES:
        assert title in text
    assert "Zero-shot" in text
    assert "misses target" in text
    assert "7 labels look wrong or missing, 4 of them surely" in text
    plain = make_report(calibrated=False, unseen=())
    assert "as the bundle has them" in plain
    assert "Zero-shot" not in plain


def test_curves_are_thin_and_go_through_the_point_decided() -> None:
    generator = np.random.default_rng(1)
    scores = generator.random((5000, 1))
    targets = generator.random((5000, 1)) < scores
    known = np.ones_like(targets)
    counts = count_decisions(scores >= 0.5, targets, known)
    pooled, one = make_curves(scores, targets, known, counts, bins=10)
    assert pooled == one
    assert len(one["ranking"]) == 80
    assert one["ranking"][-1][0] == 1.0
    assert one["decided"] == [
        round(float(counts.recall[0]), 4),
        round(float(counts.precision[0]), 4),
    ]
    assert all(abs(x - y) < 0.06 for x, y in one["calibration"])


def test_mistakes_alternate_and_are_spread_over_labels() -> None:
    scores = np.array([[0.9, 0.8], [0.95, 0.7], [0.1, 0.2], [0.05, 0.3]], np.float32)
    predicted = scores >= 0.5
    targets = ~predicted
    targets[3, 1] = False
    known = np.ones_like(targets)
    found = find_mistakes(scores, predicted, targets, known, limit=6)
    assert [(one.kind, one.image, one.label) for one in found] == [
        ("wrong", 1, 0),
        ("missed", 3, 0),
        ("wrong", 0, 1),
        ("missed", 2, 1),
        ("wrong", 0, 0),
        ("missed", 2, 0),
    ]
    known[1, 0] = False
    assert find_mistakes(scores, predicted, targets, known, limit=1)[0].image == 0
