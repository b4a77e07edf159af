"""What the demo checks, measures and shows of its nights, without running one."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo import expectations, nights, scores, sheet
from demo.catalogue import make_catalogue
from demo.layout import DEFAULT_OUTPUT, ROOT, Layout
from demo.steps import StepFailedError, Steps, make_environment, run_command, tell_failure
from demo.verify import Wanted, read_wanted
from pipeline.arguments import parse_config
from pipeline.config import TagNightlyConfig


def fact(image_id: str, **columns: Any) -> dict[str, Any]:
    return {"image_id": image_id, "origin": "model", "status": "tagged", **columns}


def test_new_is_what_a_model_has_not_seen_at_this_version() -> None:
    before = {
        "same": Wanted(version="1"),
        "changed": Wanted(version="1"),
        "gone": Wanted(version="1"),
    }
    after = {
        "same": Wanted(version="1"),
        "changed": Wanted(version="2"),
        "gone": Wanted(version=None, deleted=True),
        "new": Wanted(version="1"),
        "torn": Wanted(version=None, contradicted=True),
    }

    assert expectations.find_new(before, after) == {"changed", "new"}


@pytest.mark.parametrize(
    ("called", "broken"),
    [
        (("new", "due"), []),
        (("due",), ["new or changed, but not tagged: new"]),
        (("new",), ["failed and due, but not tried again: due"]),
        (("new", "due", "old"), ["tagged again, although neither new nor changed: old"]),
    ],
)
def test_a_night_calls_the_model_for_what_is_new_or_due(
    called: tuple[str, ...], broken: list[str]
) -> None:
    facts = [*(fact(one) for one in called), fact("gone", origin="manifest")]

    assert expectations.check_work(facts, new={"new"}, due={"due"}) == broken


def test_scores_are_those_of_pictures_the_training_did_not_see() -> None:
    tags = [{"label": "bed", "score": 0.25}, {"label": "lamp", "score": 0.5}]
    facts = [
        fact("seen", image_version="1", tags=tags),
        fact("a", image_version="1", tags=tags),
        fact("a", image_version="2", tags=tags[::-1]),
        fact("b", image_version="1", tags=None, status="failed"),
    ]

    keys, found = scores.make_scores(facts, ["lamp", "bed"], without={"seen"})

    assert keys == [("a", "1"), ("a", "2")]
    np.testing.assert_array_equal(found, [[0.5, 0.25], [0.5, 0.25]])
    with pytest.raises(ValueError, match="2 scores are staged of 3 labels"):
        scores.make_scores(facts, ["lamp", "bed", "pool"], without={"seen"})
    with pytest.raises(ValueError, match="no staged scores"):
        scores.make_scores(facts, ["lamp", "bed"], without={"seen", "a"})


def test_targets_stand_in_the_order_of_the_labels() -> None:
    targets = scores.make_targets([["bed"], [], ["bed", "lamp"]], ["lamp", "bed"])

    np.testing.assert_array_equal(targets, [[0, 1], [0, 0], [1, 1]])


def test_a_small_catalogue_has_its_manifests_where_the_demo_says(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "out")
    layout.clear()

    first, second, third = make_catalogue(layout, images=12, processes=1)

    assert {path.name for path in layout.manifests.glob("*.parquet")} == {
        "labelled.parquet",
        "night-1.parquet",
        "night-2.parquet",
        "night-3.parquet",
    }
    assert layout.truth.exists()
    assert layout.taxonomy.exists()
    assert expectations.find_new(read_wanted(first), read_wanted(second))
    assert read_wanted(second) == read_wanted(third)


def test_clearing_removes_what_the_demo_made_and_nothing_beside_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    (layout.tables / "images").mkdir(parents=True)
    layout.summary.write_text("{}")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "kept").touch()
    layout.bundle.symlink_to(tmp_path / "linked")

    layout.clear()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["linked", "logs"]
    assert (tmp_path / "linked" / "kept").exists()


@pytest.mark.parametrize("folder", [DEFAULT_OUTPUT, Path("/elsewhere/out")])
def test_the_command_of_a_night_is_one_the_job_understands(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    layout = Layout(folder)
    night = nights.make_nights((layout.manifests / "1.parquet",) * 3)[1]

    command = nights.make_command(layout, night, summary=layout.logs / "s.json")
    job = command.index("jobs/tag_nightly.py")
    config = parse_config("tag_nightly", TagNightlyConfig, command[job + 1 :])

    assert Path(command[0]).name == "spark-submit"
    assert command[1:3] == ["--properties-file", "conf/spark/laptop.conf"]
    assert (ROOT / config.tables.location) == layout.tables
    assert (ROOT / config.model.uri) == layout.bundle
    assert [ROOT / root for root in config.fetch.allowed_roots] == [layout.catalogue]
    assert (ROOT / config.manifest.path) == night.manifest
    assert config.run_id == "night-2"
    assert config.stage.score_floor == 0


def test_what_failed_is_due_on_the_second_night_and_not_on_the_third(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the second night would retry nothing, or the repeated delivery something."""
    monkeypatch.chdir(ROOT)
    three = nights.make_nights((tmp_path, tmp_path, tmp_path))
    command = nights.make_command(Layout(tmp_path), three[0], summary=tmp_path)
    arguments = command[command.index("jobs/tag_nightly.py") + 1 :]
    retry = parse_config("tag_nightly", TagNightlyConfig, arguments).retry
    first, second, third = (datetime.fromisoformat(night.as_of) for night in three)
    distance = timedelta(hours=retry.distance_h)

    assert second - first >= distance
    assert third - second < distance * retry.factor


def test_a_summary_is_told_in_words() -> None:
    summary = {
        **dict.fromkeys(("failed", "deleted", "reused", "superseded"), 0),
        **{"run_id": "night-1", "state": "published", "as_of": "2026-03-01T02:00:00+00:00"},
        **{"manifest_rows": 1200, "tagged": 1100, "skipped": 100, "tags_published": 3000},
        **{"seconds": 12.34, "images_per_s": 99.6, "cost": 0.0003},
        **{"model_version": "mumic-1", "taxonomy_version": "t1"},
    }

    assert nights.describe_summary(summary)[:3] == [
        "run night-1 of 2026-03-01 02:00 UTC: published",
        "  1,200 images in the manifest: 1,100 tagged, 100 skipped",
        "  3,000 tags published",
    ]


def test_a_command_that_fails_is_told_in_one_line_below_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "import sys; print('half a row'); sys.stderr.write('no such bundle\\n'); sys.exit(3)"
    steps = Steps(tmp_path)

    with pytest.raises(StepFailedError) as raised, steps.step("night-1", "tagging") as log:
        run_command([sys.executable, "-c", script], log=log, environment={})
    tell_failure(raised.value)

    lines = capsys.readouterr().err.splitlines()
    assert "  | no such bundle" in lines
    assert "  | half a row" in lines
    assert lines[-1] == (
        f"demo: error: step night-1 failed: {Path(sys.executable).name} ended with code 3"
    )
    assert steps.seconds == {}


def test_an_error_of_ours_in_a_step_leaves_its_trace_in_the_log(tmp_path: Path) -> None:
    steps = Steps(tmp_path)

    with pytest.raises(StepFailedError, match="step report failed: KeyError: 'gap'"):  # noqa: SIM117
        with steps.step("report", "measuring"):
            raise KeyError("gap")

    assert "Traceback" in (tmp_path / "01-report.log").read_text()


def test_steps_are_timed_and_their_logs_numbered(tmp_path: Path) -> None:
    steps = Steps(tmp_path)

    with steps.step("one", "first"):
        pass
    with steps.step("two", "second") as log:
        pass

    assert list(steps.seconds) == ["one", "two"]
    assert log.name == "02-two.log"


def test_commands_run_with_this_interpreter_and_the_java_of_the_setup(tmp_path: Path) -> None:
    java_home = tmp_path / "java_home"
    java_home.write_text("/opt/java\n")

    made = make_environment({"SPARK_HOME": "/other", "PATH": "/bin"}, java_home=java_home)

    assert made["PYSPARK_PYTHON"] == sys.executable
    assert made["JAVA_HOME"] == "/opt/java"
    assert "SPARK_HOME" not in made
    assert make_environment({"JAVA_HOME": "/j"}, java_home=tmp_path / "no")["JAVA_HOME"] == "/j"


def test_the_sheet_chooses_images_of_many_labels_first() -> None:
    found = sheet.choose_images(
        {"a": {"bed": 0.9}, "b": {"bed": 0.9, "lamp": 0.8}, "c": {"pool": 0.7}, "d": {}}, 3
    )

    assert found == ["b", "c", "a"]


def test_the_sheet_says_what_is_right_wrong_and_missed() -> None:
    chips = sheet.make_chips({"bed": 0.75, "sea_view": 0.875}, {"bed", "lamp"})

    assert chips == (
        sheet.Chip("sea view 0.88", "wrong"),
        sheet.Chip("bed 0.75", "right"),
        sheet.Chip("lamp", "missed"),
    )


def test_the_sheet_is_drawn_whatever_is_on_it() -> None:
    many = tuple(sheet.Chip(f"a long label {number}", "right") for number in range(30))
    cards = [
        sheet.Card("tagged", Image.new("RGB", (30, 90), "red"), many),
        sheet.Card("gone", None, ()),
        *[sheet.Card("failed", None, reason="truncated", detail="word " * 90)] * 3,
    ]

    drawn = sheet.draw_sheet(cards, title="Title", subtitle="Subtitle")

    placed = list(sheet.place_chips(many))
    assert 3 <= len(placed) < 30
    assert drawn.size[0] > 4 * 320
    red = (40 + 160, 104 + 120)
    assert drawn.getpixel(red) == (255, 0, 0)


def test_figures_that_are_not_defined_are_told_as_such() -> None:
    figures = {"gap": 0.81234, "gap_at_10": 0.7, "macro_map": None, "images_scored": 1234}

    told = "\n".join(scores.describe_figures({**figures, "gap_of_label_frequencies": 0.25}))

    assert "GAP 0.812 over 1,234" in told
    assert "macro mAP not defined" in told
    json.dumps(figures)
