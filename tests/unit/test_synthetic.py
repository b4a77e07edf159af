"""The synthetic catalogue: repeatable, honest about what it shows, not told by colours."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image, ImageOps
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pipeline.config import FetchConfig
from pipeline.evaluation.metrics import gap
from pipeline.images.decode import decode
from pipeline.images.fetch import Fetcher
from pipeline.images.reasons import Failure, Reason
from pipeline.synthetic import (
    ATTRIBUTES,
    LABELS,
    Catalogue,
    CatalogueSpec,
    Scene,
    draw_photo,
    draw_scene,
    make_taxonomy,
    seeded,
    write_catalogue,
    write_damaged,
)
from pipeline.synthetic.stage import DrawnObject, covered_share, visible_labels
from pipeline.synthetic.titles import make_caption
from pipeline.taxonomy import read_taxonomy

REPOSITORY = Path(__file__).parents[2]
SPEC = CatalogueSpec(images=120, seed=3, moved_rate=0.3, unknown_rate=0.1, max_side=48)
SCENES = 1500


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return write_catalogue(tmp_path_factory.mktemp("catalogue"), SPEC)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seeded("scenes", i), width=96, height=72) for i in range(SCENES)]


def read_rows(path: Path) -> list[dict[str, object]]:
    return pq.read_table(path).to_pylist()


def hash_files(folder: Path) -> dict[str, str]:
    """Digests by name; the manifests' uris differ with the folder, so only pictures count."""
    paths = [path for path in folder.rglob("*") if path.suffix != ".parquet" and path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def without_uri(path: Path) -> list[dict[str, object]]:
    return [{key: row[key] for key in row if key != "uri"} for row in read_rows(path)]


# --- repeatable


def test_the_same_specification_gives_the_same_bytes_in_one_process_and_in_two(
    tmp_path: Path,
) -> None:
    spec = CatalogueSpec(images=20, seed=5, moved_rate=0.2, max_side=64)
    one = write_catalogue(tmp_path / "one", spec, processes=1)
    two = write_catalogue(tmp_path / "two", spec, processes=2)
    assert hash_files(one.folder) == hash_files(two.folder)
    for first, second in zip(
        (one.labelled, one.truth, *one.nights), (two.labelled, two.truth, *two.nights), strict=True
    ):
        assert without_uri(first) == without_uri(second)


def test_a_picture_depends_on_seed_and_index_alone(tmp_path: Path) -> None:
    spec = CatalogueSpec(images=3, seed=1, max_side=64, damaged=False)
    few = write_catalogue(tmp_path / "few", spec)
    many = write_catalogue(tmp_path / "many", replace(spec, images=6))
    other = write_catalogue(tmp_path / "other", replace(spec, seed=2))
    first = {name for name in hash_files(few.images) if "-v2" not in name}
    pictures, more = hash_files(few.images), hash_files(many.images)
    assert len(first) == 3
    assert all(pictures[name] == more[name] for name in first)
    assert not set(pictures.values()) & set(hash_files(other.images).values())


def test_rates_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"moved_rate must lie between 0 and 1, not 1\.5"):
        CatalogueSpec(images=1, moved_rate=1.5)
    with pytest.raises(ValueError, match="together"):
        CatalogueSpec(images=1, validation_share=0.6, test_share=0.6)


# --- what is drawn


def test_labels_have_a_long_tail_without_a_label_too_rare_to_learn(scenes: list[Scene]) -> None:
    counts = Counter(label for scene in scenes for label in scene.labels)
    shares = sorted((count / SCENES for count in counts.values()), reverse=True)
    assert set(counts) == set(LABELS)
    assert len(counts) >= 24
    assert shares[0] > 0.3
    assert 0.006 < shares[-1] < 0.02
    assert sum(share < 0.05 for share in shares) >= 8
    assert 2 < sum(counts.values()) / SCENES < 4
    assert sum(len(scene.labels) > 1 for scene in scenes) / SCENES > 0.8


def test_what_is_labelled_lies_where_a_centre_crop_shows_it(scenes: list[Scene]) -> None:
    left, right = 0.125, 0.875  # the centred square of a 4:3 picture
    for scene in scenes:
        for item in scene.objects:
            x0, _, x1, _ = item.box
            inside = min(x1, right) - max(x0, left)
            assert inside >= 0.5 * min(x1 - x0, right - left), item


def test_labelled_objects_are_large_enough_to_see_at_64_pixels(scenes: list[Scene]) -> None:
    for scene in scenes:
        for item in scene.objects:
            x0, y0, x1, y1 = item.box
            assert min((x1 - x0) * 4 / 3, y1 - y0) * 64 > 9, item


def test_a_label_goes_where_its_object_is_covered() -> None:
    far = DrawnObject("painting", (0.2, 0.2, 0.4, 0.4))
    beside = DrawnObject("bed", (0.5, 0.5, 0.9, 0.9))
    over = DrawnObject("sofa", (0.1, 0.1, 0.5, 0.5))
    assert visible_labels([far, beside]) == ("bed", "painting")
    assert visible_labels([far, over]) == ("sofa",)
    assert visible_labels([over, far]) == ("painting", "sofa")


def test_the_covered_share_counts_overlaps_once_and_what_is_outside() -> None:
    box = (0.0, 0.0, 0.5, 0.5)
    assert covered_share(box, []) == 0
    assert covered_share(box, [(0.0, 0.0, 0.25, 0.5)]) == pytest.approx(0.5)
    assert covered_share(box, [(0.0, 0.0, 0.25, 0.5)] * 2) == pytest.approx(0.5)
    assert covered_share((-0.5, 0.0, 0.5, 0.5), []) == pytest.approx(0.5)


def test_colours_alone_do_not_tell_the_labels(scenes: list[Scene]) -> None:
    """The frozen limit. benchmarks/catalogue_difficulty.py measures it on whole catalogues."""
    targets = np.array([[label in scene.labels for label in LABELS] for scene in scenes])
    levels = [np.asarray(scene.image) >> 5 for scene in scenes]
    features = np.sqrt(
        np.stack(
            [
                np.bincount((p @ np.array([64, 8, 1])).ravel(), minlength=512) / (p.size / 3)
                for p in levels
            ]
        )
    )
    features = StandardScaler().fit_transform(features)
    cut = SCENES * 3 // 4
    scores = np.stack(
        [
            LogisticRegression(C=1e-3, max_iter=200)
            .fit(features[:cut], targets[:cut, label])
            .predict_proba(features[cut:])[:, 1]
            for label in range(len(LABELS))
        ],
        axis=1,
    )
    frequencies = np.tile(targets[:cut].mean(axis=0), (SCENES - cut, 1))
    # Above the frequencies, so the regression did learn; far below what shapes tell.
    assert gap(frequencies, targets[cut:]) < gap(scores, targets[cut:]) < 0.6


def test_a_scene_larger_than_the_grain_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 2048 pixels, not 4000x100"):
        draw_scene(seeded(0), width=4000, height=100)


# --- titles and attributes


def test_what_tells_which_attribute(scenes: list[Scene]) -> None:
    seen_views, unseen_views = 0, 0
    for index, scene in enumerate(scenes):
        caption = make_caption(seeded("caption", index), scene, wrong_title_rate=0.1)
        title = caption.title.lower()
        attributes = caption.attributes
        assert all(value in ATTRIBUTES[name] for name, value in attributes.items())
        assert attributes.get("wall_colour") == scene.wall_colour
        assert not any(colour in title.split() for colour in ATTRIBUTES["wall_colour"])
        if "room_type" in attributes:
            assert title.startswith(attributes["room_type"])
        if scene.view is not None:
            assert attributes["view"] == scene.view
            seen_views += 1
        elif "view" in attributes:
            assert attributes["view"] in title
            unseen_views += 1
    assert seen_views > 300
    assert unseen_views > 50


@pytest.mark.parametrize(("rate", "low", "high"), [(0.0, 0.0, 0.0), (0.1, 0.05, 0.15)])
def test_titles_agree_with_the_picture_mostly(
    scenes: list[Scene], rate: float, low: float, high: float
) -> None:
    wrong = 0
    for index, scene in enumerate(scenes):
        title = make_caption(seeded("title", index), scene, wrong_title_rate=rate).title
        # The view is left out: a title may name one that the picture does not show.
        named = {
            label
            for label, name in LABELS.items()
            if f" {name} " in f"{title} " and not label.endswith("_view")
        }
        wrong += not named <= set(scene.labels)
    assert low <= wrong / SCENES <= high


# --- manifests


def test_the_labelled_manifest_keeps_its_contract(catalogue: Catalogue) -> None:
    rows = read_rows(catalogue.labelled)
    assert Counter(row["split"] for row in rows) == {"train": 84, "validation": 10, "test": 26}
    assert len({row["image_id"] for row in rows}) == SPEC.images
    for row in rows:
        assert Path(str(row["uri"])).is_absolute()
        assert Path(str(row["uri"])).is_file()
        assert set(row["labels"]) <= set(LABELS)  # type: ignore[call-overload]
        assert row["title"]


def test_positives_move_to_wrong_labels_at_the_chosen_rate_and_never_in_the_test_split(
    tmp_path: Path,
) -> None:
    spec = CatalogueSpec(images=300, seed=8, moved_rate=0.3, max_side=32, damaged=False)
    catalogue = write_catalogue(tmp_path, spec)
    truth = {row["image_id"]: set(row["labels"]) for row in read_rows(catalogue.truth)[:300]}
    moved = positives = 0
    for row in read_rows(catalogue.labelled):
        labels, true = set(row["labels"]), truth[row["image_id"]]
        assert len(labels) == len(true)
        if row["split"] == "test":
            assert labels == true
        else:
            moved += len(true - labels)
            positives += len(true)
    assert moved / positives == pytest.approx(0.3, abs=0.05)


def test_labels_nobody_checked_are_in_train_only_and_never_positive(catalogue: Catalogue) -> None:
    pairs = 0
    for row in read_rows(catalogue.labelled):
        assert not set(row["unknown"]) & set(row["labels"])  # type: ignore[call-overload]
        assert row["split"] == "train" or not row["unknown"]
        pairs += len(row["unknown"])  # type: ignore[arg-type]
    assert pairs / (84 * len(LABELS)) == pytest.approx(SPEC.unknown_rate, abs=0.03)


def test_night_two_has_new_changed_and_deleted_images_of_what_training_never_saw(
    catalogue: Catalogue,
) -> None:
    first, second = (
        {row["image_id"]: row for row in read_rows(night)} for night in catalogue.nights[:2]
    )
    test_ids = {row["image_id"] for row in read_rows(catalogue.labelled) if row["split"] == "test"}
    hotels = {image_id for image_id in second if str(image_id).startswith("hotel-")}
    assert hotels == test_ids
    new = hotels - set(first)
    changed = {i for i in hotels - new if first[i]["version"] != second[i]["version"]}
    deleted = {i for i in hotels if second[i]["deleted"]}
    assert (len(new), len(changed), len(deleted)) == (4, 1, 1)
    assert not changed & deleted
    for image_id in changed:
        before, after = (Path(str(night[image_id]["uri"])) for night in (first, second))
        assert before.read_bytes() != after.read_bytes()
    assert not any(row["deleted"] for row in first.values())


def test_night_three_delivers_night_two_again_with_some_rows_twice(catalogue: Catalogue) -> None:
    second, third = (
        Counter(tuple(row.items()) for row in read_rows(night)) for night in catalogue.nights[1:]
    )
    assert set(second) == set(third)
    assert max(second.values()) == 1
    doubled = [dict(row) for row, count in third.items() if count == 2]
    assert len(doubled) == round(0.1 * (len(second) - 2))
    assert max(third.values()) == 2


def test_the_truth_covers_every_delivered_version_with_labels_or_a_reason(
    catalogue: Catalogue,
) -> None:
    truth = {(row["image_id"], row["version"]): row for row in read_rows(catalogue.truth)}
    for night in catalogue.nights:
        for row in read_rows(night):
            if row["image_id"] == "damaged-contradiction":
                continue
            known = truth[row["image_id"], row["version"]]
            assert (known["labels"] is None) == (known["reason"] is not None)
    rows = [r for r in read_rows(catalogue.nights[1]) if r["image_id"] == "damaged-contradiction"]
    assert len(rows) == 2
    assert truth["damaged-contradiction", "1"]["reason"] == Reason.CONTRADICTION


def test_pictures_have_the_formats_and_sizes_of_a_catalogue(catalogue: Catalogue) -> None:
    formats: Counter[str | None] = Counter()
    shapes = set()
    lying = 0
    for path in sorted(catalogue.images.iterdir()):
        with Image.open(path) as image:
            formats[image.format] += 1
            upright = ImageOps.exif_transpose(image)
            lying += upright.size != image.size
            shapes.add(upright.size)
            assert max(upright.size) <= SPEC.max_side
            assert image.mode == "RGB"
    assert set(formats) == {"JPEG", "PNG", "WEBP"}
    assert formats["JPEG"] > formats["WEBP"] + formats["PNG"]
    assert len(shapes) >= 4
    assert lying >= 1


# --- taxonomy


def test_the_taxonomy_file_and_the_catalogue_agree(catalogue: Catalogue) -> None:
    path = REPOSITORY / "conf" / "taxonomies" / "hotel.yaml"
    assert yaml.safe_load(path.read_text()) == make_taxonomy()
    taxonomy = read_taxonomy(path)
    assert [label.id for _, label in taxonomy.labels] == list(LABELS)
    assert read_taxonomy(catalogue.taxonomy).version == taxonomy.version


# --- damaged inputs


def test_every_damaged_input_fails_for_its_expected_reason(tmp_path: Path) -> None:
    damaged = write_damaged(tmp_path)
    fetcher = Fetcher(FetchConfig())
    assert len({item.name for item in damaged}) == len(damaged)
    for item in damaged:
        if item.uri is None:
            assert item.expected_reason == Reason.NO_SOURCE
            continue
        content = fetcher.fetch(item.uri)
        outcome = (
            content if isinstance(content, Failure) else decode(content, max_pixels=150_000_000)
        )
        assert isinstance(outcome, Failure), item
        assert outcome.reason == item.expected_reason, (item, outcome)
    reasons = {item.expected_reason for item in damaged}
    assert reasons >= {
        Reason.EMPTY,
        Reason.NOT_AN_IMAGE,
        Reason.TRUNCATED,
        Reason.CORRUPT,
        Reason.TOO_MANY_PIXELS,
        Reason.NOT_FOUND,
        Reason.NO_SOURCE,
    }


def test_damaged_inputs_are_the_same_every_time(tmp_path: Path) -> None:
    write_damaged(tmp_path / "a")
    write_damaged(tmp_path / "b")
    assert hash_files(tmp_path / "a") == hash_files(tmp_path / "b")


# --- photos for benchmarks


def test_a_photo_of_a_megapixel_is_as_large_as_a_photograph() -> None:
    content = draw_photo(1152, 868, 1)
    assert 200_000 < len(content) < 300_000
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.size) == ("JPEG", (1152, 868))


def test_photos_depend_on_their_seed_alone() -> None:
    assert draw_photo(160, 120, 4) == draw_photo(160, 120, 4)
    assert draw_photo(160, 120, 4) != draw_photo(160, 120, 5)
