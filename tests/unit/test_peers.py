"""How peers are measured and compared: their notes, their embeddings, the ratios."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peers
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray


def vectors(*rows: list[float]) -> dict[str, NDArray[np.float32]]:
    return {str(key): np.asarray(row, np.float32) for key, row in enumerate(rows)}


def test_steady_speed_spans_all_workers_and_counts_only_finished_images(tmp_path: Path) -> None:
    notes = {"1": [[100.0, 101.0, 0], [101.0, 103.0, 30]], "2": [[102.0, 110.0, 20]]}
    for worker, lines in notes.items():
        (tmp_path / f"{worker}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert peers.read_steady(tmp_path) == pytest.approx(50 / 10)


def test_embeddings_are_read_from_all_files_but_those_of_a_delta_log(tmp_path: Path) -> None:
    for place, key in (("a=1", "x"), ("a=2", "y"), ("_delta_log", "z")):
        (tmp_path / place).mkdir()
        rows = [{"image_id": key, "embedding": [1.0, 2.0], "other": place}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / place / "part.parquet")
    assert {key: value.tolist() for key, value in peers.read_embeddings(tmp_path).items()} == {
        "x": [1.0, 2.0],
        "y": [1.0, 2.0],
    }


def test_equal_embeddings_agree_in_any_order() -> None:
    ours = vectors([1, 0], [0, 1], [0.6, 0.8])
    assert peers.compare(ours, dict(reversed(ours.items()))) == pytest.approx(
        {"cosine": 1, "centred": 1}
    )


def test_embeddings_of_the_wrong_images_show_after_centring() -> None:
    ours = vectors([1, 0.01], [1, -0.01])
    found = peers.compare(ours, vectors([1, -0.01], [1, 0.01]))
    assert found["cosine"] > peers.AGREEMENT
    assert found["centred"] == pytest.approx(-1)


def test_missing_images_are_no_agreement() -> None:
    with pytest.raises(ValueError, match="1 images, of 2"):
        peers.compare(vectors([1, 0], [0, 1]), vectors([1, 0]))


def test_the_ratio_is_to_the_best_peer_of_each_round() -> None:
    def speeds(job: float, a: float, b: float) -> dict[str, dict[str, float]]:
        found = {"job": job, "a": a, "b": b}
        return {name: {"steady": value, "whole": value / 2} for name, value in found.items()}

    summary = peers.summarise([speeds(100, 50, 20), speeds(100, 25, 40), speeds(90, 10, 30)])
    steady = summary["steady"]
    assert steady["ratios"] == [2.0, 2.5, 3.0]
    assert steady["ratio"] == 2.5
    assert steady["ratio_to"] == {"a": 4.0, "b": 3.0}
    assert steady["images_per_s"] == {"job": 100, "a": 25, "b": 30}
    assert summary["whole"]["ratio"] == 2.5


def test_every_peer_has_a_script_and_pinned_requirements_or_the_projects_own() -> None:
    for peer in peers.PEERS:
        assert (peers.SCRIPTS / f"with_{peer}.py").is_file()
    for requirements in peers.SCRIPTS.glob("*.txt"):
        assert requirements.stem in peers.PEERS
        assert all("==" in line for line in requirements.read_text().splitlines())
