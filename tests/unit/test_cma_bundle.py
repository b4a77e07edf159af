"""CMA-CLIP on the bundle's path: round trip, versions, other taxonomies, damage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TAXONOMY, make_bundle, make_cma_bundle, make_towers

from pipeline.config import CmaClipConfig
from pipeline.errors import BundleError, ModelError
from pipeline.models.bundle import Bundle, read_bundle, write_with_taxonomy
from pipeline.models.bundle_info import describe_file, model_version, serialise_info
from pipeline.models.cma_bundle import load_cma_clip, write_cma_clip
from pipeline.models.cma_clip import CmaClip
from pipeline.taxonomy import Taxonomy, parse_taxonomy


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_cma_bundle(tmp_path_factory.mktemp("cma"))


def version_of(bundle: Bundle) -> str:
    return model_version(bundle.info, precision="fp32", scaled_decoding=True)


def changed(**fields: Any) -> Taxonomy:
    """The taxonomy with something else about its first label."""
    data = TAXONOMY.to_dict()
    data["tasks"][0]["labels"][0].update(fields)
    return parse_taxonomy(data)


@torch.no_grad()
def test_what_is_written_is_read_to_the_last_bit(tmp_path: Path) -> None:
    towers = make_towers(tmp_path)
    config = CmaClipConfig(layers=1, heads=2, modality_attention="mean")
    model = CmaClip(towers.model, TAXONOMY, config).eval()
    written = write_cma_clip(
        tmp_path / "b", model=model, towers=towers, taxonomy=TAXONOMY, licence="CC0-1.0"
    )
    assert written.info.cma_clip == config
    assert written.info.embedding_size == 32
    assert not written.info.scores_from_embedding
    loaded = load_cma_clip(read_bundle(tmp_path / "b"))
    pixels, tokens = torch.randn(2, 3, 32, 32), written.load_tokenizer()(["a bed", "x"])
    ours, theirs = model(pixels, tokens), loaded(pixels, tokens)
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, theirs.logits, strict=True))
    assert torch.equal(ours.image_embeddings, theirs.image_embeddings)
    assert not loaded.training
    towers_again = written.load_towers().model.state_dict()
    assert all(torch.equal(t, towers_again[n]) for n, t in towers.model.state_dict().items())


def test_its_files_hold_heads_and_no_label_embeddings(bundle: Bundle) -> None:
    assert set(bundle.info.files) == {
        "weights.safetensors",
        "heads.safetensors",
        "taxonomy.yaml",
    }
    assert bundle.label_embeddings.shape == (0, 32)
    with pytest.raises(BundleError, match="not a MuMIC bundle"):
        bundle.load_model()


def test_a_mumic_bundle_has_no_heads(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a CMA-CLIP bundle"):
        load_cma_clip(make_bundle(tmp_path))


def test_thresholds_names_and_texts_may_change_and_keep_the_model_version(
    tmp_path: Path, bundle: Bundle
) -> None:
    for number, taxonomy in enumerate(
        [changed(threshold=0.9), changed(name="basin"), changed(texts=["water"])]
    ):
        other = write_with_taxonomy(tmp_path / str(number), bundle=bundle, taxonomy=taxonomy)
        assert other.taxonomy == taxonomy
        assert version_of(other) == version_of(bundle)
        assert other.taxonomy.version != bundle.taxonomy.version
        load_cma_clip(other)


@pytest.mark.parametrize(
    "taxonomy",
    [
        changed(id="sauna"),
        Taxonomy(TAXONOMY.tasks[:1]),
        Taxonomy(TAXONOMY.tasks[::-1]),
        Taxonomy((replace(TAXONOMY.tasks[0], kind="single_label"), TAXONOMY.tasks[1])),
    ],
)
def test_labels_the_heads_do_not_know_are_refused_with_words(
    tmp_path: Path, bundle: Bundle, taxonomy: Taxonomy
) -> None:
    with pytest.raises(BundleError, match="train a model with the new taxonomy"):
        write_with_taxonomy(tmp_path / "other", bundle=bundle, taxonomy=taxonomy)
    assert not (tmp_path / "other").exists()


def test_heads_towers_and_parts_are_in_the_model_version(tmp_path: Path, bundle: Bundle) -> None:
    versions = {version_of(bundle)}
    towers = make_towers(tmp_path)
    torch.manual_seed(5)
    for number, config in enumerate(
        [CmaClipConfig(layers=2, heads=4), CmaClipConfig(layers=2, heads=2)]
    ):
        torch.manual_seed(7)
        model = CmaClip(towers.model, TAXONOMY, config)
        made = write_cma_clip(
            tmp_path / str(number), model=model, towers=towers, taxonomy=TAXONOMY, licence="x"
        )
        versions.add(version_of(made))
    assert len(versions) == 3
    assert all(version.startswith("cma_clip-") for version in versions)


def test_a_model_with_numbers_that_are_none_is_not_written(tmp_path: Path) -> None:
    towers = make_towers(tmp_path)
    model = CmaClip(towers.model, TAXONOMY, CmaClipConfig(layers=1, heads=2))
    with torch.no_grad():
        model.heads[1].keyless[0, 0] = torch.nan  # type: ignore[union-attr, index]
    with pytest.raises(ModelError, match="nothing was written"):
        write_cma_clip(
            tmp_path / "b", model=model, towers=towers, taxonomy=TAXONOMY, licence="CC0-1.0"
        )
    assert not (tmp_path / "b").exists()


def rewrite(folder: Path, **changes: Any) -> None:
    """``bundle.json`` as somebody would write it who knows how hashes are made."""
    fields = json.loads((folder / "bundle.json").read_bytes())
    del fields["sha256"]
    names = list(fields["files"])
    fields |= changes
    fields["files"] = {name: describe_file(folder / name) for name in names}
    (folder / "bundle.json").write_bytes(serialise_info(fields))


def test_heads_that_do_not_fit_are_refused_when_they_are_loaded(tmp_path: Path) -> None:
    folder = make_cma_bundle(tmp_path).path
    heads = load_file(folder / "heads.safetensors")
    save_file({n: t for n, t in heads.items() if n != "kinds"}, folder / "heads.safetensors")
    rewrite(folder)
    with pytest.raises(BundleError, match="the heads do not fit"):
        load_cma_clip(read_bundle(folder))


@pytest.mark.parametrize("damage", ["gone", "changed", "labels", "parts", "unknown"])
def test_damage_is_refused_when_the_bundle_is_read(tmp_path: Path, damage: str) -> None:
    folder = make_cma_bundle(tmp_path).path
    if damage == "gone":
        (folder / "heads.safetensors").unlink()
    elif damage == "changed":
        with (folder / "heads.safetensors").open("r+b") as stream:
            stream.seek(-1, 2)
            stream.write(b"\x7f")
    elif damage == "labels":  # outputs of the heads would get other names
        text = (folder / "taxonomy.yaml").read_text().replace("id: pool", "id: sauna")
        (folder / "taxonomy.yaml").write_text(text)
        rewrite(folder)
    elif damage == "parts":
        rewrite(folder, cma_clip={"config": {"layers": 2, "wings": 3}, "tasks": []})
    else:
        rewrite(folder, kind="cma_clip_2")
    with pytest.raises(BundleError):
        read_bundle(folder)
