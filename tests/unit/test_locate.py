"""Bundles from elsewhere: copied once, whole, and under a name that says what they are."""

from __future__ import annotations

import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow import fs
from tiny_models import make_bundle

from pipeline.errors import BundleError, ConfigurationError
from pipeline.models import locate as locate_module
from pipeline.models.bundle_info import read_bundle_info
from pipeline.models.locate import locate_bundle
from pipeline.registry.versions import resolve_model_uri


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("original")).path


class _Remote:
    """A filesystem elsewhere: reads from a local folder, counts, and may fail."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.opened: list[str] = []
        self.fails_on: str | None = None
        self._lock = threading.Lock()

    def open_input_stream(self, path: str) -> Any:
        with self._lock:
            self.opened.append(Path(path).name)
        if self.fails_on == Path(path).name:
            raise OSError("connection lost")
        return fs.LocalFileSystem().open_input_stream(str(self.root / path))


@pytest.fixture
def remote(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Remote:
    remote = _Remote(tmp_path / "remote")
    shutil.copytree(original, remote.root / "bundle")
    monkeypatch.setattr(locate_module, "_open_filesystem", lambda uri: (remote, "bundle"))
    return remote


def test_local_folders_are_used_as_they_are(original: Path, tmp_path: Path) -> None:
    assert locate_bundle(str(original)) == original
    assert locate_bundle(original.as_uri()) == original
    with pytest.raises(BundleError, match="no bundle"):
        locate_bundle(str(tmp_path / "none"))


def test_a_remote_bundle_is_copied_whole_and_once(
    original: Path, remote: _Remote, tmp_path: Path
) -> None:
    found = locate_bundle("s3://place/bundle", tmp_path / "cache")
    assert read_bundle_info(found).digest == read_bundle_info(original).digest
    assert locate_bundle("s3://place/bundle", tmp_path / "cache") == found
    assert remote.opened.count("weights.safetensors") == 1
    left = [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    assert left == [found.name]


def test_processes_that_ask_at_once_copy_once(remote: _Remote, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: locate_bundle("s3://p/b", tmp_path / "cache"), range(4)))
    assert len(found) == 1
    assert remote.opened.count("weights.safetensors") == 1


def test_a_copy_that_was_cut_off_is_made_again(remote: _Remote, tmp_path: Path) -> None:
    remote.fails_on = "weights.safetensors"
    with pytest.raises(BundleError, match="connection lost"):
        locate_bundle("s3://p/b", tmp_path / "cache")
    remote.fails_on = None
    assert read_bundle_info(locate_bundle("s3://p/b", tmp_path / "cache"))


def test_a_copy_that_lost_a_file_is_made_again(remote: _Remote, tmp_path: Path) -> None:
    found = locate_bundle("s3://p/b", tmp_path / "cache")
    (found / "taxonomy.yaml").unlink()
    assert read_bundle_info(locate_bundle("s3://p/b", tmp_path / "cache"))
    assert remote.opened.count("taxonomy.yaml") == 2


def test_another_bundle_at_the_same_place_is_another_copy(remote: _Remote, tmp_path: Path) -> None:
    first = locate_bundle("s3://p/b", tmp_path / "cache")
    shutil.rmtree(remote.root / "bundle")
    (tmp_path / "second").mkdir()
    shutil.copytree(make_bundle(tmp_path / "second", "resnet").path, remote.root / "bundle")
    second = locate_bundle("s3://p/b", tmp_path / "cache")
    assert second != first
    assert read_bundle_info(second).architecture != read_bundle_info(first).architecture


def test_a_remote_place_without_a_bundle_is_told_without_secrets(
    remote: _Remote, tmp_path: Path
) -> None:
    remote.fails_on = "bundle.json"
    with pytest.raises(BundleError) as caught:
        locate_bundle("s3://key:secret@place/bundle?token=secret", tmp_path / "cache")
    assert "s3://place/bundle" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_scheme_nobody_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nonsense"):
        locate_bundle("nonsense://place/bundle", tmp_path)


class _MlflowError(Exception):
    pass


@pytest.fixture
def registry(original: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands in for mlflow: one model ``hotel`` with versions 1 and 2, champion is 2."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///registry.db")
    state = SimpleNamespace(downloads=[], champion=2, inside="")

    def version(name: str, number: int | str) -> SimpleNamespace:
        if name != "hotel" or int(number) not in (1, 2):
            raise _MlflowError(f"{name} version {number} not found")
        return SimpleNamespace(version=int(number), creation_timestamp=1000 + int(number))

    def by_alias(name: str, alias: str) -> SimpleNamespace:
        if alias != "champion":
            raise _MlflowError(f"alias {alias} not found")
        return version(name, state.champion)

    def download(*, artifact_uri: str, dst_path: str, **_: str) -> str:
        state.downloads.append(artifact_uri)
        shutil.copytree(original, Path(dst_path) / state.inside, dirs_exist_ok=True)
        return dst_path

    client = SimpleNamespace(get_model_version=version, get_model_version_by_alias=by_alias)
    mlflow = SimpleNamespace(
        MlflowClient=lambda: client,
        get_registry_uri=lambda: "sqlite:///registry.db",
        get_tracking_uri=lambda: "sqlite:///registry.db",
        tracking=SimpleNamespace(is_tracking_uri_set=lambda: False),
        exceptions=SimpleNamespace(MlflowException=_MlflowError),
        artifacts=SimpleNamespace(download_artifacts=download),
    )
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.artifacts", mlflow.artifacts)
    return state


def test_an_alias_becomes_the_version_behind_it(registry: SimpleNamespace) -> None:
    assert resolve_model_uri("models:/hotel@champion") == "models:/hotel/2"
    assert resolve_model_uri("models:/hotel/1") == "models:/hotel/1"
    assert resolve_model_uri("s3://place/bundle") == "s3://place/bundle"


def test_a_registered_model_is_downloaded_once(
    registry: SimpleNamespace, original: Path, tmp_path: Path
) -> None:
    found = locate_bundle("models:/hotel@champion", tmp_path)
    assert read_bundle_info(found).digest == read_bundle_info(original).digest
    assert locate_bundle("models:/hotel/2", tmp_path) == found
    assert registry.downloads == ["models:/hotel/2"]
    registry.champion = 1
    assert locate_bundle("models:/hotel@champion", tmp_path) != found


def test_a_model_that_was_registered_as_a_python_model_is_its_bundle(
    registry: SimpleNamespace, original: Path, tmp_path: Path
) -> None:
    registry.inside = "artifacts/bundle"
    found = locate_bundle("models:/hotel@champion", tmp_path)
    assert read_bundle_info(found).digest == read_bundle_info(original).digest
    shutil.rmtree(found)  # the system cleans its temp folder
    assert read_bundle_info(locate_bundle("models:/hotel@champion", tmp_path))
    assert len(registry.downloads) == 2


def test_without_a_registry_mlflow_makes_none_in_the_current_folder(
    registry: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_URI"):
        locate_bundle("models:/hotel@champion", tmp_path)


@pytest.mark.parametrize("uri", ["models:/", "models:/hotel", "models:/hotel/x", "models:/a/b/1"])
def test_a_registry_uri_of_another_form_is_a_mistake_in_the_configuration(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="models:/name@alias"):
        locate_bundle(uri)


@pytest.mark.parametrize("uri", ["models:/hotel@nobody", "models:/hotel/3", "models:/none/1"])
def test_a_model_the_registry_does_not_have_is_told_with_the_registry(
    registry: SimpleNamespace, uri: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="not found") as caught:
        locate_bundle(uri, tmp_path)
    assert "sqlite:///registry.db" in str(caught.value)


def test_a_cache_folder_of_somebody_else_is_not_used(
    remote: _Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate_module.tempfile, "tempdir", str(tmp_path))
    found = locate_bundle("s3://p/b")
    assert found.parent.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(locate_module.os, "getuid", lambda: 12345)
    found.parent.rename(tmp_path / "mumic-bundles-12345")
    with pytest.raises(BundleError, match="somebody else"):
        locate_bundle("s3://p/b")


def test_a_copy_that_was_swapped_for_another_valid_bundle_is_made_again(
    original: Path, remote: _Remote, tmp_path: Path
) -> None:
    found = locate_bundle("s3://p/b", tmp_path / "cache")
    info = (found / "bundle.json").read_bytes()
    (found / "bundle.json").write_bytes(info.replace(b"CC0-1.0", b"CC0-1.1"))
    again = locate_bundle("s3://p/b", tmp_path / "cache")
    assert read_bundle_info(again).digest == read_bundle_info(original).digest
