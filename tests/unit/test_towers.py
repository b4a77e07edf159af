"""Loading towers: names, hubs, checkpoints and own architectures, all from local files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import ARCHITECTURES, make_towers
from torch import nn

from pipeline.config import TowersConfig
from pipeline.errors import ConfigurationError
from pipeline.models import towers as towers_module
from pipeline.models.towers import build_clip, load_towers, make_tokenizer

IMAGE_MEAN = [0.5, 0.4, 0.3]


@pytest.fixture
def trained(tmp_path: Path) -> nn.Module:
    """A model whose weights are none that a fresh one has."""
    return make_towers(tmp_path, "vit", seed=7).model


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def save_config(folder: Path, *, wrapped: bool = False) -> Path:
    model: dict[str, Any] = ARCHITECTURES["vit"]
    data = {"model_cfg": model, "preprocess_cfg": {"mean": IMAGE_MEAN}} if wrapped else model
    path = folder / "open_clip_config.json"
    path.write_text(json.dumps(data))
    return path


def refused(architecture: str, pretrained: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_towers(TowersConfig(architecture=architecture, pretrained=pretrained))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_architecture_file_alone_gives_random_weights_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_towers(TowersConfig(architecture=str(save_config(tmp_path))))
    assert loaded.architecture == ARCHITECTURES["vit"]
    assert loaded.preprocessing.size == 32
    assert loaded.tokenizer(["x"]).shape == (1, 16)
    assert not loaded.model.training
    assert "random weights" in caplog.text


@pytest.mark.parametrize("form", ["safetensors", "pt", "wrapped.pt"])
def test_a_local_checkpoint_is_loaded(tmp_path: Path, trained: nn.Module, form: str) -> None:
    path = tmp_path / f"weights.{form}"
    if form == "safetensors":
        save_file(trained.state_dict(), path)
    elif form == "pt":
        torch.save(trained.state_dict(), path)
    else:  # as training scripts save them: wrapped, from a distributed model
        state = {f"module.{n}": t for n, t in trained.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": state}, path)
    config = save_config(tmp_path)
    loaded = load_towers(TowersConfig(architecture=str(config), pretrained=str(path)))
    assert same_weights(loaded.model, trained)


def test_the_same_checkpoint_in_open_clip_gives_the_same_model(
    tmp_path: Path, trained: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", ARCHITECTURES["vit"])
    theirs, _, _ = open_clip.create_model_and_transforms(
        "tiny", pretrained=str(tmp_path / "w.safetensors")
    )
    config = TowersConfig(architecture="tiny", pretrained=str(tmp_path / "w.safetensors"))
    ours = load_towers(config)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours.model.encode_image(pixels), theirs.encode_image(pixels))


def test_a_pretrained_tag_brings_its_preprocessing_and_its_activation(
    tmp_path: Path, trained: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    tag = {"mean": IMAGE_MEAN, "interpolation": "bilinear", "quick_gelu": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", ARCHITECTURES["vit"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, which: tag)
    monkeypatch.setattr(
        open_clip, "download_pretrained", lambda cfg: str(tmp_path / "w.safetensors")
    )
    loaded = load_towers(TowersConfig(architecture="tiny", pretrained="some_tag"))
    assert same_weights(loaded.model, trained)
    assert loaded.preprocessing.mean == tuple(IMAGE_MEAN)
    assert loaded.preprocessing.interpolation == "bilinear"
    assert loaded.architecture["quick_gelu"] is True
    assert any(isinstance(m, open_clip.transformer.QuickGELU) for m in loaded.model.modules())


@pytest.mark.parametrize("scheme", ["local-dir", "hf-hub"])
def test_a_folder_or_a_hub_brings_weights_and_preprocessing(
    tmp_path: Path, trained: nn.Module, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    save_config(tmp_path, wrapped=True)
    save_file(trained.state_dict(), tmp_path / "open_clip_model.safetensors")

    def download(model_id: str, filename: str | None = None, **_: object) -> str:
        assert model_id == "owner/name"
        return str(tmp_path / (filename or "open_clip_model.safetensors"))

    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", download)
    place = str(tmp_path) if scheme == "local-dir" else "owner/name"
    loaded = load_towers(TowersConfig(architecture=f"{scheme}:{place}"))
    assert same_weights(loaded.model, trained)
    assert loaded.preprocessing.mean == tuple(IMAGE_MEAN)
    assert loaded.architecture == ARCHITECTURES["vit"]


def test_names_and_files_that_do_not_exist_are_refused_by_name(tmp_path: Path) -> None:
    assert "ViT-B-33" in refused("ViT-B-33")
    assert "nowhere.json" in refused(str(tmp_path / "nowhere.json"))
    message = refused("ViT-B-32", "no_such_tag")
    assert "no_such_tag" in message
    assert "laion2b_s34b_b79k" in message
    assert "bring their own weights" in refused("hf-hub:owner/name", "some_tag")
    assert "local-dir:" in refused(f"local-dir:{tmp_path}/none")


def test_what_the_network_does_not_give_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", fail)
    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    assert "no route to host" in refused("hf-hub:owner/name")
    assert "give a local checkpoint" in refused("ViT-B-32", "laion2b_s34b_b79k")


@pytest.mark.parametrize("content", ["{", "[]", '{"embed_dim": 3}'])
def test_an_architecture_file_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    assert str(path) in refused(str(path))


@pytest.mark.parametrize(
    "change", [{"embed_dim": "x"}, {"nonsense": 1}, {"vision_cfg": {"layers": "many"}}]
)
def test_an_architecture_open_clip_cannot_build_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="cannot build"):
        build_clip({**ARCHITECTURES["vit"], **change})


def test_a_checkpoint_of_another_architecture_is_refused(
    tmp_path: Path, trained: nn.Module
) -> None:
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    path = tmp_path / "resnet.json"
    path.write_text(json.dumps(ARCHITECTURES["resnet"]))
    assert "does not fit" in refused(str(path), str(tmp_path / "w.safetensors"))


class _RunsCode:
    """A pickle that touches a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_checkpoint_never_runs_code(tmp_path: Path, name: str) -> None:
    weights, witness = tmp_path / name, tmp_path / "witness"
    weights.write_bytes(pickle.dumps(_RunsCode(witness), protocol=2))
    assert "not a safetensors file" in refused(str(save_config(tmp_path)), str(weights))
    assert not witness.exists()


def test_a_hugging_face_tokenizer_is_loaded_from_its_folder_or_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        open_clip.tokenizer, "HFTokenizer", lambda name, **options: asked.append((name, options))
    )
    text = {"hf_tokenizer_name": "owner/name", "context_length": 64, "tokenizer_kwargs": {"a": 1}}
    make_tokenizer({"text_cfg": text})
    make_tokenizer({"text_cfg": text}, tmp_path)
    options = {"context_length": 64, "tokenizer_mode": None, "a": 1}
    assert asked == [("owner/name", options), (str(tmp_path), options)]


def test_a_missing_package_for_the_tokenizer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'transformers'")

    monkeypatch.setattr(towers_module.open_clip.tokenizer, "HFTokenizer", fail)
    with pytest.raises(ConfigurationError, match="pip install transformers"):
        make_tokenizer({"text_cfg": {"hf_tokenizer_name": "owner/name"}})
