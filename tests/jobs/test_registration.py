"""Bundles in a registry: one version each, for this product and for MLflow itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.config import TrackingConfig
from pipeline.errors import BundleError, RegistryError
from pipeline.models.bundle_info import BundleInfo, read_bundle_info
from pipeline.models.locate import locate_bundle
from pipeline.registry.champion import move_alias, read_champion, read_history
from pipeline.registry.connection import Connection, connect, find_experiment
from pipeline.registry.registration import Registered, register_bundle, write_python_model

NOW = datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC)
SETTINGS = {"device": "cpu", "precision": "fp32", "scaled_decoding": True, "batch_size": 4}


@pytest.fixture
def store(tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> Connection:
    uri = f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "mlflow.db").write_bytes(mlflow_database.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return connect(TrackingConfig())


@pytest.fixture
def info(tiny_bundle: Path) -> BundleInfo:
    return read_bundle_info(tiny_bundle)


def register(store: Connection, info: BundleInfo) -> Registered:
    run = store.client.create_run(find_experiment(store, "mumic"))
    return register_bundle(
        store, "mumic", info, run_id=run.info.run_id, settings=SETTINGS, tags={"why": "test"}
    )


def promote(store: Connection, version: str, expected: str | None) -> None:
    move_alias(store, "mumic", "champion", version, how="registered", expected=expected, now=NOW)


def test_a_registered_bundle_comes_back_to_the_byte(
    store: Connection, info: BundleInfo, tmp_path: Path
) -> None:
    made = register(store, info)
    promote(store, made.version, None)
    assert (made.uri, made.is_new) == ("models:/mumic/1", True)
    found = locate_bundle("models:/mumic@champion", tmp_path / "cache")
    assert read_bundle_info(found).digest == info.digest


def test_the_same_bundle_is_one_version(
    store: Connection, info: BundleInfo, tiny_models: Any, tmp_path: Path
) -> None:
    first = register(store, info)
    again = register(store, info)
    assert (again.version, again.is_new) == (first.version, False)
    other = read_bundle_info(tiny_models.make_bundle(tmp_path, "resnet").path)
    assert register(store, other).version == "2"


def test_a_model_that_holds_no_bundle_is_refused(store: Connection, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.bin").write_bytes(b"x")
    store.client.create_registered_model("other")
    store.client.create_model_version("other", source=str(tmp_path / "other"))
    with pytest.raises(BundleError, match="not a bundle"):
        read_bundle_info(locate_bundle("models:/other/1", tmp_path / "cache"))


def test_no_file_of_a_registered_model_is_a_pickle(info: BundleInfo, tmp_path: Path) -> None:
    write_python_model(tmp_path / "model", info, settings=SETTINGS)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    suffixes = {path.suffix for path in files}
    assert suffixes <= {".py", ".html", ".json", ".yaml", ".txt", ".safetensors", ".typed", ""}
    assert {path.name for path in files if path.suffix == ""} == {"MLmodel"}
    assert not [path for path in files if path.read_bytes()[:1] == b"\x80"]


_LOAD = """
import json, sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model("models:/mumic@champion")
pictures = json.load(open(sys.argv[1]))
rows = pd.DataFrame({
    "content": [bytes.fromhex(one["content"]) if "content" in one else None for one in pictures],
    "uri": [one.get("uri") for one in pictures],
})
told = model.predict(rows)
import pipeline
print(json.dumps({"rows": told.to_dict("records"), "code": pipeline.__file__}))
"""


@pytest.mark.long
def test_mlflow_loads_it_in_a_process_that_knows_nothing_of_this_product(
    store: Connection, info: BundleInfo, tmp_path: Path
) -> None:
    promote(store, register(store, info).version, None)
    picture = tmp_path / "picture.png"
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(picture)
    asked = [
        {"content": picture.read_bytes().hex()},
        {"uri": str(picture)},
        {"content": b"no picture".hex()},
        {},
    ]
    (tmp_path / "asked.json").write_text(json.dumps(asked))

    told = subprocess.run(
        [sys.executable, "-c", _LOAD, str(tmp_path / "asked.json")],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "MLFLOW_TRACKING_URI": store.tracking_uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout.splitlines()[-1])
    assert answer["code"].startswith(str(tmp_path / "store"))
    assert [row["reason"] for row in answer["rows"]] == [
        None,
        "uri_not_allowed",
        "not_an_image",
        "no_source",
    ]
    # Another number of threads may round otherwise.
    expected = [
        one | {"score": pytest.approx(one["score"], abs=1e-5)}
        for one in expected_tags(info, picture)
    ]
    assert answer["rows"][0]["tags"] == expected
    assert answer["rows"][0]["tags"]


def expected_tags(info: BundleInfo, picture: Path) -> list[dict[str, Any]]:
    """What the UDF of the product publishes for the picture."""
    from pipeline.config import DecodeConfig, FetchConfig
    from pipeline.images.loader import ImageLoader, ImageRequest
    from pipeline.models.bundle import read_bundle
    from pipeline.models.engine import Engine
    from pipeline.models.serving import load_predictor
    from udfs.functions import publishable_tags

    predictor = load_predictor(
        read_bundle(info.path), device="cpu", precision="fp32", scaled_decoding=True
    )
    loader = ImageLoader(FetchConfig(), DecodeConfig(), predictor.preprocessing, True)
    (outcome,) = Engine(predictor, loader, 4).run([ImageRequest("1", str(picture), None)])
    tags = publishable_tags(outcome, predictor.taxonomy.labels)
    assert tags is not None
    keys = ("task", "label", "score")
    return [{key: tag[key] for key in keys} for tag in tags]


def test_uris_are_read_where_whoever_loads_the_model_allows_it(
    store: Connection, info: BundleInfo, tmp_path: Path
) -> None:
    import mlflow
    import pandas as pd

    Image.new("RGB", (40, 30), (10, 200, 90)).save(tmp_path / "picture.png")
    write_python_model(tmp_path / "model", info, settings=SETTINGS)
    allowed = {**SETTINGS, "allowed_roots": [str(tmp_path)], "allowed_hosts": []}
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config=allowed)
    rows = pd.DataFrame({"uri": [str(tmp_path / "picture.png"), "/etc/hostname"]})
    assert list(model.predict(rows)["reason"]) == [None, "uri_not_allowed"]


def test_an_alias_moves_and_remembers(
    store: Connection, info: BundleInfo, tiny_models: Any, tmp_path: Path
) -> None:
    assert read_champion(store, "mumic", "champion") is None
    assert read_history(store, "mumic", "champion") == []
    register(store, info)
    assert read_champion(store, "mumic", "champion") is None
    promote(store, "1", None)
    register(store, read_bundle_info(tiny_models.make_bundle(tmp_path, "resnet").path))
    promote(store, "2", "1")
    assert read_champion(store, "mumic", "champion") == "2"
    history = read_history(store, "mumic", "champion")
    assert [(move.version, move.how) for move in history] == [
        ("1", "registered"),
        ("2", "registered"),
    ]
    assert history[0].at == "2026-11-22T01:02:03+00:00"
    store.client.set_registered_model_alias("mumic", "champion", "1")
    store.client.set_registered_model_alias("mumic", "champion", "2")
    for _ in range(22):  # more than a tag of a registry can hold
        promote(store, "1", "2")
        promote(store, "2", "1")
    assert len(read_history(store, "mumic", "champion")) == 40


def test_an_alias_that_somebody_moved_in_the_meantime_stays(
    store: Connection, info: BundleInfo
) -> None:
    register(store, info)
    promote(store, "1", None)
    with pytest.raises(RegistryError, match="in the meantime"):
        promote(store, "1", None)
    with pytest.raises(RegistryError, match="cannot be moved"):
        promote(store, "7", "1")
