"""Bundles: what is written is what is read, and nothing else is read."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from tiny_models import ARCHITECTURES, TAXONOMY, make_bundle, make_towers

from pipeline.errors import BundleError, ConfigurationError, ModelError
from pipeline.models import bundle as bundle_module
from pipeline.models.bundle import Bundle, read_bundle, write_bundle, write_with_taxonomy
from pipeline.models.bundle_info import (
    BundleInfo,
    describe_file,
    model_version,
    read_bundle_info,
    serialise_info,
)
from pipeline.models.mumic import MuMIC
from pipeline.models.towers import Towers
from pipeline.taxonomy import parse_taxonomy

OTHER_TAXONOMY = parse_taxonomy(
    {"tasks": [{"id": "new", "kind": "multi_label", "labels": [{"id": "sauna"}, {"id": "gym"}]}]}
)
FILES = ("bundle.json", "label_embeddings.safetensors", "taxonomy.yaml", "weights.safetensors")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("written"))


@pytest.fixture
def copied(written: Bundle, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written.path, tmp_path / "copied"))


def edit_info(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change bundle.json the way someone who knows its own hash would."""
    fields = json.loads((folder / "bundle.json").read_text())
    del fields["sha256"]
    change(fields)
    (folder / "bundle.json").write_bytes(serialise_info(fields))


def refused(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_a_model_comes_back_from_its_bundle_alone(tmp_path: Path, kind: str) -> None:
    bundle = make_bundle(tmp_path, kind)
    moved = tmp_path / "elsewhere"
    bundle.path.rename(moved)
    (tmp_path / f"{kind}.json").unlink()
    before, after = make_towers(tmp_path, kind), read_bundle(moved)
    size = (after.preprocessing.height, after.preprocessing.width)
    pixels, tokens = torch.randn(2, 3, *size), before.tokenizer(["a pool", "a bed"])
    mumic = after.load_model()
    with torch.no_grad():
        theirs = before.model.encode_image(pixels, normalize=True)
        torch.testing.assert_close(mumic.encode_images(pixels), theirs)
        theirs = before.model.encode_text(tokens, normalize=True)
        ours = mumic.encode_texts(after.load_tokenizer()(["a pool", "a bed"]))
        torch.testing.assert_close(ours, theirs)
    assert not mumic.training


def test_all_that_was_written_is_read(written: Bundle) -> None:
    assert written.kind == "mumic"
    assert written.taxonomy == TAXONOMY
    assert written.preprocessing.size == 32
    assert written.info.licence == "CC0-1.0"
    assert written.info.embedding_size == 32
    assert written.info.tau == pytest.approx(0.07)
    assert written.info.logit_bias == -1.5
    assert "torch" in written.info.libraries
    assert written.label_embeddings.shape == (5, 32)
    assert sorted(p.name for p in written.path.iterdir()) == sorted(FILES)


def test_label_embeddings_equal_open_clips_zero_shot_classifier(written: Bundle) -> None:
    classifier = open_clip.build_zero_shot_classifier(
        written.load_model().clip,
        written.load_tokenizer(),
        ["single", "double"],
        ["a photo of a {}."],
    )
    np.testing.assert_allclose(written.label_embeddings[3:], classifier.T.numpy(), atol=1e-6)


def test_a_learnt_temperature_and_bias_come_back_to_the_last_bit(tmp_path: Path) -> None:
    towers = make_towers(tmp_path)
    mumic = MuMIC(towers.model, tau=0.0712345, bias=-1.2345678, learn_tau=True, learn_bias=True)
    bundle = write_bundle(
        tmp_path / "b", mumic=mumic.train(), towers=towers, taxonomy=TAXONOMY, licence="x"
    )
    again = bundle.load_model()
    assert mumic.training
    assert again.tau.item() == pytest.approx(mumic.tau.item(), rel=1e-7)
    assert again.bias.item() == mumic.bias.item()


def test_nothing_in_a_bundle_is_a_pickle(written: Bundle) -> None:
    for path in written.path.iterdir():
        assert path.suffix in (".json", ".yaml", ".safetensors")
        assert path.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x04", b"PK")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.0, 0.3, 0.999])
def test_one_changed_byte_in_any_file_is_refused_by_its_name(
    copied: Path, name: str, where: float
) -> None:
    content = bytearray((copied / name).read_bytes())
    content[int(where * len(content))] ^= 1
    (copied / name).write_bytes(content)
    assert str(copied / name) in refused(copied)


def test_every_byte_of_bundle_json_counts(copied: Path) -> None:
    content = (copied / "bundle.json").read_bytes()
    for place in range(0, len(content), 97):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        (copied / "bundle.json").write_bytes(changed)
        assert "bundle.json" in refused(copied)
    (copied / "bundle.json").write_bytes(content + b"\n")
    assert "changed" in refused(copied)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_its_name(copied: Path, name: str) -> None:
    (copied / name).unlink()
    assert name in refused(copied)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    assert "not a bundle" in refused(tmp_path)
    assert "not a bundle" in refused(tmp_path / "none")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "tokenizer/../../x",
        "tokenizer/.x",
        "model.pkl",
        "a/b",
        "",
        "tokenizer/",
    ],
)
def test_a_file_name_that_has_no_place_in_a_bundle_is_refused(copied: Path, name: str) -> None:
    entry = describe_file(copied / "taxonomy.yaml")
    edit_info(copied, lambda fields: fields["files"].update({name: entry}))
    assert "no place in a bundle" in refused(copied)


@pytest.mark.parametrize("folder", ["tokenizer", "text_tower"])
def test_a_file_nobody_vouches_for_is_refused_where_loaders_would_read_it(
    copied: Path, folder: str
) -> None:
    (copied / folder).mkdir()
    (copied / folder / "config.json").write_text("{}")
    assert f"{folder}/config.json" in refused(copied)


def test_a_newer_format_is_refused_with_what_to_do(copied: Path) -> None:
    edit_info(copied, lambda fields: fields.update(format=2))
    assert "update the product" in refused(copied)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda fields: fields.update(kind="other"), "unknown kind"),
        (lambda fields: fields.pop("licence"), "licence"),
        (lambda fields: fields["files"].pop("weights.safetensors"), "weights.safetensors"),
        (lambda fields: fields.pop("format"), "format"),
        (lambda fields: fields.update(files=[]), "lists its files"),
        (lambda fields: fields["files"].update({"taxonomy.yaml": 3}), "lists its files"),
        (lambda fields: fields.update(logit_scale="x"), "not valid"),
        (lambda fields: fields.update(logit_scale=0), "logit_scale"),
        (lambda fields: fields.update(logit_scale=10**400), "not valid"),
        (lambda fields: fields.update(preprocessing={"size": -1}), "not valid"),
        (lambda fields: fields.update(preprocessing=[]), "not valid"),
        (lambda fields: fields.update(preprocessing={"size": [7, 8][:0]}), "not valid"),
        (lambda fields: fields.update(embedding_size=7), "do not fit the taxonomy"),
    ],
)
def test_content_that_cannot_be_used_is_refused(
    copied: Path, change: Callable[[dict[str, Any]], object], word: str
) -> None:
    edit_info(copied, change)
    assert word in refused(copied)


def test_weights_that_do_not_fit_the_architecture_are_refused(copied: Path) -> None:
    edit_info(copied, lambda fields: fields["architecture"]["vision_cfg"].update(layers=3))
    with pytest.raises(BundleError, match="do not fit"):
        read_bundle(copied).load_model()


def test_label_embeddings_that_do_not_fit_the_taxonomy_are_refused(copied: Path) -> None:
    (copied / "taxonomy.yaml").write_text(json.dumps(OTHER_TAXONOMY.to_dict()))
    entry = describe_file(copied / "taxonomy.yaml")
    edit_info(copied, lambda fields: fields["files"].update({"taxonomy.yaml": entry}))
    assert "do not fit the taxonomy" in refused(copied)


@pytest.mark.parametrize("existing", ["folder", "file", "dangling link"])
def test_a_bundle_is_never_overwritten(tmp_path: Path, existing: str) -> None:
    target = tmp_path / "bundle"
    if existing == "folder":
        target.mkdir()
    elif existing == "file":
        target.touch()
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="never overwritten"):
        make_bundle(tmp_path)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_module, "write_taxonomy", fail)
    with pytest.raises(BundleError, match="No space left"):
        make_bundle(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["vit.json"]


def test_a_training_can_go_on_from_a_bundle(written: Bundle, tmp_path: Path) -> None:
    towers = written.load_towers()
    again = write_bundle(
        tmp_path / "b",
        mumic=MuMIC(towers.model, tau=0.07, bias=-1.5),
        towers=towers,
        taxonomy=written.taxonomy,
        licence=written.info.licence,
    )
    assert again.info.digest == written.info.digest


def test_metrics_that_are_not_numbers_do_not_lose_a_training(tmp_path: Path) -> None:
    towers = make_towers(tmp_path)
    training = {"gap": float("nan"), "best": float("-inf"), "path": tmp_path, "steps": [1, 2.5]}
    bundle = write_bundle(
        tmp_path / "b",
        mumic=MuMIC(towers.model, tau=0.07),
        towers=towers,
        taxonomy=TAXONOMY,
        licence="x",
        training=training,
    )
    expected = {"gap": None, "best": None, "path": str(tmp_path), "steps": [1, 2.5]}
    assert bundle.info.training == expected


@pytest.mark.parametrize("where", ["ln_final.bias", "visual.proj", "bias"])
def test_a_model_that_diverged_is_not_written(tmp_path: Path, where: str) -> None:
    towers = make_towers(tmp_path)
    if where != "bias":
        towers.model.get_parameter(where).data[0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        write_bundle(
            tmp_path / "b",
            mumic=MuMIC(towers.model, tau=0.07, bias=math.nan if where == "bias" else 0.0),
            towers=towers,
            taxonomy=TAXONOMY,
            licence="x",
        )
    assert not (tmp_path / "b").exists()


def test_a_bundle_can_be_read_by_other_users(written: Bundle) -> None:
    assert written.path.stat().st_mode & 0o055 == 0o055
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in written.path.iterdir())


def version_of(info: BundleInfo) -> str:
    return model_version(info, precision="fp32", scaled_decoding=True)


def test_writing_the_same_model_again_gives_the_same_version(
    written: Bundle, tmp_path: Path
) -> None:
    again = make_bundle(tmp_path)
    assert again.info.digest == written.info.digest
    assert version_of(again.info) == version_of(written.info)
    assert version_of(written.info).startswith("mumic-")
    assert len(version_of(written.info)) == len("mumic-") + 12


def test_the_model_version_knows_the_inference_profile(written: Bundle) -> None:
    versions = {
        model_version(written.info, precision=precision, scaled_decoding=scaled)
        for precision in ("fp32", "bf16", "fp16", "int8")
        for scaled in (True, False)
    }
    assert len(versions) == 8


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields["architecture"].update(quick_gelu=True),
        lambda fields: fields["preprocessing"].update(interpolation="bilinear"),
        lambda fields: fields["tokenizer"].update(context_length=15),
        lambda fields: fields.update(logit_scale=10.0),
        lambda fields: fields.update(logit_bias=0.0),
    ],
)
def test_the_model_version_changes_with_all_that_makes_a_score(
    written: Bundle, copied: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit_info(copied, change)
    assert version_of(read_bundle_info(copied)) != version_of(written.info)


def test_other_weights_are_another_model_version(written: Bundle, tmp_path: Path) -> None:
    towers: Towers = make_towers(tmp_path, seed=1)
    mumic = MuMIC(towers.model, tau=0.07, bias=-1.5)
    other = write_bundle(
        tmp_path / "b", mumic=mumic, towers=towers, taxonomy=TAXONOMY, licence="CC0-1.0"
    )
    assert version_of(other.info) != version_of(written.info)


def test_the_model_version_ignores_licence_training_and_libraries(
    written: Bundle, copied: Path
) -> None:
    edit_info(copied, lambda f: f.update(licence="y", training={"gap": 1}, libraries={}))
    info = read_bundle_info(copied)
    assert version_of(info) == version_of(written.info)
    assert info.digest != written.info.digest


def test_another_taxonomy_on_the_same_model_is_scored_zero_shot(
    written: Bundle, tmp_path: Path
) -> None:
    other = write_with_taxonomy(tmp_path / "other", bundle=written, taxonomy=OTHER_TAXONOMY)
    assert version_of(other.info) == version_of(written.info)
    assert other.taxonomy == OTHER_TAXONOMY
    assert other.taxonomy.version != written.taxonomy.version
    assert other.info.licence == written.info.licence
    classifier = open_clip.build_zero_shot_classifier(
        written.load_model().clip, written.load_tokenizer(), ["sauna", "gym"], ["a photo of a {}."]
    )
    np.testing.assert_allclose(other.label_embeddings, classifier.T.numpy(), atol=1e-6)


def test_the_driver_learns_all_it_needs_without_torch(written: Bundle) -> None:
    script = (
        "import sys\n"
        "import pipeline.models.locate, pipeline.models.scoring, pipeline.registry\n"
        "from pipeline.models.bundle_info import model_version, read_bundle_info\n"
        "info = read_bundle_info(sys.argv[1])\n"
        "print(model_version(info, precision='fp32', scaled_decoding=True))\n"
        "print(sorted({'torch', 'pyspark', 'mlflow'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(written.path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.split("\n")[:2] == [version_of(written.info), "[]"]


class _SavedTokenizer:
    """Stands in for a Hugging Face tokenizer: callable, and saved as files."""

    def __call__(self, texts: list[str]) -> torch.Tensor:
        return open_clip.tokenize(texts, context_length=16)

    def save_pretrained(self, folder: str) -> None:
        Path(folder).mkdir()
        Path(folder, "tokenizer.json").write_text('{"a": 1}')


def test_a_hugging_face_tokenizer_travels_in_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    towers = make_towers(tmp_path)
    architecture = {**towers.architecture}
    architecture["text_cfg"] = {**architecture["text_cfg"], "hf_tokenizer_name": "owner/name"}
    towers = Towers(
        model=towers.model,
        tokenizer=_SavedTokenizer(),
        preprocessing=towers.preprocessing,
        architecture=architecture,
    )
    mumic = MuMIC(towers.model, tau=0.07)
    bundle = write_bundle(
        tmp_path / "b", mumic=mumic, towers=towers, taxonomy=TAXONOMY, licence="x"
    )
    asked: list[str] = []
    monkeypatch.setattr(
        open_clip.tokenizer,
        "HFTokenizer",
        lambda name, **_: asked.append(name) or _SavedTokenizer(),
    )
    bundle.load_tokenizer()
    assert asked == [str(tmp_path / "b" / "tokenizer")]
    other = write_with_taxonomy(tmp_path / "c", bundle=bundle, taxonomy=OTHER_TAXONOMY)
    assert version_of(other.info) == version_of(bundle.info)
    (tmp_path / "b" / "tokenizer" / "tokenizer.json").write_text('{"a": 2}')
    assert "tokenizer/tokenizer.json" in refused(tmp_path / "b")
