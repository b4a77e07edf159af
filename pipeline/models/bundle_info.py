"""What a bundle says about itself: reading and verifying it, and the model's version. No torch.

A bundle is a folder::

    bundle.json                    kind, architecture, preprocessing, tokenizer, logit scale and
                                   bias, licence, versions, sha256 of every file and of itself
    weights.safetensors            the towers
    taxonomy.yaml                  the taxonomy in force
    label_embeddings.safetensors   of MuMIC: [L, D] float32, rows in the taxonomy's order
    heads.safetensors              of CMA-CLIP: its attentions and its tasks' heads
    tokenizer/, text_tower/        only with a Hugging Face tokenizer or text tower

Nothing in it is a pickle. ``bundle.json`` has one valid form, byte for byte: a file edited by hand
is refused, like any other changed byte. The Spark driver reads bundles through this module.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config import CmaClipConfig, Precision
from pipeline.errors import BundleError, PipelineError
from pipeline.images.preprocess import Preprocessing
from pipeline.taxonomy import Taxonomy, read_taxonomy

FORMAT = 1
KINDS = ("mumic", "cma_clip")
INFO_NAME = "bundle.json"
WEIGHTS_NAME = "weights.safetensors"
TAXONOMY_NAME = "taxonomy.yaml"
LABEL_EMBEDDINGS_NAME = "label_embeddings.safetensors"
HEADS_NAME = "heads.safetensors"
TOKENIZER_FOLDER = "tokenizer"
TEXT_TOWER_FOLDER = "text_tower"

# Which decoder makes the pixels; another one is another embedding.
DECODER = "pillow"

_REQUIRED_FILES = {
    "mumic": (WEIGHTS_NAME, TAXONOMY_NAME, LABEL_EMBEDDINGS_NAME),
    "cma_clip": (WEIGHTS_NAME, TAXONOMY_NAME, HEADS_NAME),
}
_REQUIRED_KEYS = (
    "architecture",
    "embedding_size",
    "files",
    "libraries",
    "licence",
    "logit_bias",
    "logit_scale",
    "preprocessing",
    "product_version",
    "tokenizer",
    "training",
)
_SELF_KEY = "sha256"
# One folder deep, nothing hidden, nothing that climbs.
_SAFE_NAME = re.compile(
    rf"(?:(?:{TOKENIZER_FOLDER}|{TEXT_TOWER_FOLDER})/)?[A-Za-z0-9_][A-Za-z0-9_.-]*"
)
# Changes whenever int8 rounds otherwise: embeddings differ then.
_ROUNDING = "int8-1"
_VERSION_HEX_DIGITS = 12
_MAX_INFO_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class BundleInfo:
    """A verified bundle, without its tensors.

    Attributes:
        path: The folder.
        kind: The kind of model.
        architecture: open_clip's model configuration, self-contained.
        preprocessing: From an image to the model's input.
        tokenizer: Which tokenizer made the tokens (kind, context length, options).
        logit_scale: 1 / tau of MuMIC; 1 of other kinds.
        logit_bias: The bias of MuMIC's sigmoid; 0 of other kinds.
        embedding_size: D.
        licence: Licence of the weights.
        taxonomy: The taxonomy in force.
        training: What the training wrote down, if anything.
        product_version: Of the product that wrote it.
        libraries: Versions of the main libraries that wrote it.
        files: sha256 (hex) of every file but ``bundle.json``.
        digest: sha256 (hex) of all of the bundle; changes with any byte of any file.
        cma_clip: The parts of CMA-CLIP; None of other kinds.
    """

    path: Path
    kind: str
    architecture: dict[str, Any]
    preprocessing: Preprocessing
    tokenizer: dict[str, Any]
    logit_scale: float
    logit_bias: float
    embedding_size: int
    licence: str
    taxonomy: Taxonomy
    training: dict[str, Any] | None
    product_version: str
    libraries: dict[str, str]
    files: dict[str, str]
    digest: str
    cma_clip: CmaClipConfig | None = None

    @property
    def tau(self) -> float:
        """Temperature of the sigmoid, greater than 0."""
        return 1.0 / self.logit_scale

    @property
    def scores_from_embedding(self) -> bool:
        """Whether scores of any taxonomy can be made from a stored embedding.

        Else a score needs the image (and the text) again, and only thresholds can be changed.
        """
        return self.kind == "mumic"


def model_version(info: BundleInfo, *, precision: Precision, scaled_decoding: bool) -> str:
    """Digest of all that makes an embedding and a raw score.

    Weights, architecture, preprocessing, tokenizer, logit scale and bias, and the inference profile
    (precision, decoder, scaled decoding); of CMA-CLIP also its parts, and which label is which
    output of its heads. Not the taxonomy, its thresholds, the licence, how it was trained, or
    versions of libraries: label embeddings follow from weights and taxonomy.

    Args:
        info: The bundle.
        precision: Arithmetic of the towers.
        scaled_decoding: Whether JPEGs are decoded at a smaller DCT scale.

    Returns:
        The kind and 12 hex digits, as ``mumic-0123456789ab``.
    """
    parts = {
        "kind": info.kind,
        "weights": info.files[WEIGHTS_NAME],
        "towers": {n: h for n, h in info.files.items() if "/" in n},
        "architecture": info.architecture,
        "preprocessing": info.preprocessing.to_dict(),
        "tokenizer": info.tokenizer,
        "logit_scale": info.logit_scale,
        "logit_bias": info.logit_bias,
        "precision": _ROUNDING if precision == "int8" else precision,
        "decoder": DECODER,
        "scaled_decoding": scaled_decoding,
    }
    if info.cma_clip is not None:
        parts["heads"] = info.files[HEADS_NAME]
        parts["cma_clip"] = describe_cma_clip(info.cma_clip, info.taxonomy)
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return f"{info.kind}-{digest[:_VERSION_HEX_DIGITS]}"


def describe_cma_clip(config: CmaClipConfig, taxonomy: Taxonomy) -> dict[str, Any]:
    """CMA-CLIP's parts as ``bundle.json`` keeps them, with the outputs of its heads in order."""
    tasks = [
        {"id": task.id, "kind": task.kind, "labels": [label.id for label in task.labels]}
        for task in taxonomy.tasks
    ]
    return {"config": asdict(config), "tasks": tasks}


def read_bundle_info(folder: str | Path) -> BundleInfo:
    """Read a local bundle and verify every file of it.

    Args:
        folder: A local folder; see :func:`pipeline.models.locate.locate_bundle` for others.

    Raises:
        BundleError: If anything is missing, changed, unsafe, or of a newer format.
    """
    path = Path(folder)
    try:
        with (path / INFO_NAME).open("rb") as stream:
            content = stream.read(_MAX_INFO_BYTES + 1)
    except OSError as error:
        raise BundleError(
            "not a bundle", where=path, expected=f"a folder with {INFO_NAME}", got=error
        ) from error
    fields = parse_info(content, path / INFO_NAME)
    files: dict[str, Any] = fields["files"]
    for name, entry in files.items():
        _verify_file(path, name, entry)
    for name in _extra_files(path, files):
        raise BundleError("a file the bundle does not list", where=path / name, todo="remove it")
    try:
        taxonomy = read_taxonomy(path / TAXONOMY_NAME)
        if not fields["logit_scale"] > 0:
            raise ValueError(f"logit_scale {fields['logit_scale']} is not greater than 0")
        return BundleInfo(
            path=path,
            kind=fields["kind"],
            architecture=fields["architecture"],
            preprocessing=Preprocessing.from_open_clip(fields["preprocessing"]),
            tokenizer=fields["tokenizer"],
            logit_scale=float(fields["logit_scale"]),
            logit_bias=float(fields["logit_bias"]),
            embedding_size=int(fields["embedding_size"]),
            licence=fields["licence"],
            taxonomy=taxonomy,
            training=fields["training"],
            product_version=fields["product_version"],
            libraries=fields["libraries"],
            files={name: entry["sha256"] for name, entry in files.items()},
            digest=fields[_SELF_KEY],
            cma_clip=_read_cma_clip(fields, taxonomy),
        )
    except (
        *(PipelineError, ArithmeticError, AttributeError),
        *(LookupError, RecursionError, TypeError, ValueError),
    ) as error:
        raise BundleError("the bundle's content is not valid", where=path, got=error) from error


def _read_cma_clip(fields: Mapping[str, Any], taxonomy: Taxonomy) -> CmaClipConfig | None:
    if fields["kind"] != "cma_clip":
        return None
    config = CmaClipConfig(**fields["cma_clip"]["config"])
    if describe_cma_clip(config, taxonomy) != fields["cma_clip"]:
        raise ValueError(f"the labels of {TAXONOMY_NAME} are not the outputs of the heads")
    return config


def parse_info(content: bytes, where: Path | str) -> dict[str, Any]:
    """Parse and check ``bundle.json`` itself: form, own hash, format, kind, safe names.

    Args:
        content: The file's bytes.
        where: Named in errors.

    Raises:
        BundleError: If it is not exactly what :func:`serialise_info` wrote, or cannot be used.
    """
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{INFO_NAME} is not valid JSON", where=where, got=error) from error
    if not isinstance(fields, dict) or not isinstance(fields.get("format"), int):
        raise BundleError(f"{INFO_NAME} has no format version", where=where)
    if fields["format"] > FORMAT:
        raise BundleError(
            "the bundle was written by a newer product",
            where=where,
            expected=f"format {FORMAT} at most",
            got=fields["format"],
            todo="update the product",
        )
    try:
        written = serialise_info({k: v for k, v in fields.items() if k != _SELF_KEY})
    except (ValueError, RecursionError):  # numbers, characters and depths that are never written
        written = None
    if content != written:
        raise BundleError(
            "a file of the bundle was changed",
            where=where,
            expected="the content its sha256 was made from",
            todo="write or copy the bundle again",
        )
    if missing := [key for key in _REQUIRED_KEYS if key not in fields]:
        raise BundleError(f"{INFO_NAME} lacks entries", where=where, got=f"no {missing}")
    if fields.get("kind") not in KINDS:
        raise BundleError("unknown kind", where=where, expected=KINDS, got=fields.get("kind"))
    files = fields["files"]
    if not isinstance(files, dict) or any(
        not isinstance(entry, dict) or set(entry) != {"bytes", "sha256"} for entry in files.values()
    ):
        raise BundleError(
            f"{INFO_NAME} lists its files wrongly", where=where, expected="bytes and sha256 of each"
        )
    required = _REQUIRED_FILES[fields["kind"]]
    if missing := [name for name in required if name not in files]:
        raise BundleError(f"{INFO_NAME} lists no {missing[0]}", where=where)
    for name in files:
        if not _SAFE_NAME.fullmatch(name) or ("/" not in name and name not in required):
            raise BundleError(
                f"{INFO_NAME} lists a file that has no place in a bundle",
                where=where,
                got=repr(name),
            )
    return fields


def serialise_info(fields: Mapping[str, Any]) -> bytes:
    """The one valid form of ``bundle.json``, its own sha256 included.

    Args:
        fields: Everything but the own hash; plain JSON data.
    """

    def form(data: Mapping[str, Any]) -> bytes:
        text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"

    return form({**fields, _SELF_KEY: hashlib.sha256(form(fields)).hexdigest()})


def describe_file(path: Path) -> dict[str, Any]:
    """Size in bytes and sha256 (hex) of a file, as ``bundle.json`` keeps them."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"bytes": stream.tell(), "sha256": digest}


def _verify_file(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    path = folder / name
    try:
        found = describe_file(path)
    except OSError as error:
        raise BundleError("a file of the bundle is missing", where=path, got=error) from error
    if found != entry:
        raise BundleError(
            "a file of the bundle was changed",
            where=path,
            expected=f"sha256 {entry['sha256']}",
            got=found["sha256"],
            todo="write or copy the bundle again",
        )


def _extra_files(folder: Path, files: Mapping[str, Any]) -> list[str]:
    """Files in the folders that loaders read as a whole, but that no hash vouches for."""
    return [
        name
        for sub in (TOKENIZER_FOLDER, TEXT_TOWER_FOLDER)
        for entry in sorted((folder / sub).glob("*"))
        if (name := f"{sub}/{entry.name}") not in files
    ]
