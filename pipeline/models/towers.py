"""The two towers: any open_clip architecture, with weights from wherever they are.

An architecture here is open_clip's model configuration as a plain dict that needs nothing but
itself: :func:`build_clip` makes the modules from it without a registry of names and without
fetching anything. Names, hubs and checkpoints are resolved once, by :func:`load_towers`.
"""

from __future__ import annotations

import copy
import json
import logging
import pickle
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import load_checkpoint, merge_preprocess_dict
from open_clip.hf_model import HFTextEncoder
from open_clip.transform import PreprocessCfg
from safetensors import SafetensorError
from torch import nn

from pipeline.config import TowersConfig
from pipeline.errors import ConfigurationError
from pipeline.images.preprocess import Preprocessing
from pipeline.models.labels import Tokenizer

_LOG = logging.getLogger(__name__)

_HUB_SCHEMES = ("hf-hub:", "local-dir:")
_REQUIRED_KEYS = ("embed_dim", "vision_cfg", "text_cfg")


@dataclass(frozen=True, kw_only=True)
class Towers:
    """Two towers and all that is needed to feed them.

    Attributes:
        model: An open_clip model with ``encode_image`` and ``encode_text``, float32, on the CPU.
        tokenizer: Texts to tokens, [N, T] int64.
        preprocessing: From an image to the image tower's input.
        architecture: open_clip's model configuration, self-contained.
    """

    model: nn.Module
    tokenizer: Tokenizer
    preprocessing: Preprocessing
    architecture: dict[str, Any]


def load_towers(config: TowersConfig) -> Towers:
    """Load towers by name, from a hub, or from local files.

    Args:
        config: ``architecture`` is an open_clip name, ``hf-hub:owner/name``, ``local-dir:folder``
            or a local ``.json``; ``pretrained`` an open_clip tag, a local checkpoint
            (``.safetensors``, or a torch file that is read with ``weights_only``) or None. Hubs
            and local folders bring their own weights.

    Raises:
        ConfigurationError: If name, file or weights cannot be used.
    """
    name = config.architecture
    if name.startswith(_HUB_SCHEMES):
        if config.pretrained:
            raise ConfigurationError(
                "hub models and local folders bring their own weights",
                where="towers.pretrained",
                got=config.pretrained,
                todo="leave towers.pretrained out",
            )
        return _load_from_hub(name)
    architecture, preprocess = _read_architecture(name)
    checkpoint = None
    if config.pretrained:
        checkpoint, tag = _find_checkpoint(name, config.pretrained)
        preprocess = merge_preprocess_dict(preprocess, tag)
        # OpenAI's weights need the activation they were trained with, whatever name was given.
        if tag and tag.get("quick_gelu"):
            architecture["quick_gelu"] = True
    if checkpoint is not None:
        architecture = _without_downloads(architecture)
    model = build_clip(architecture, where=name)
    if checkpoint is None:
        _LOG.warning("towers %s start from random weights", name)
    else:
        _load_weights(model, checkpoint)
    return _make_towers(model, architecture, preprocess)


def build_clip(architecture: dict[str, Any], *, where: object = "architecture") -> nn.Module:
    """Build an open_clip model with random weights from its configuration alone.

    Args:
        architecture: ``embed_dim``, ``vision_cfg``, ``text_cfg`` and what else open_clip's model
            classes take; ``custom_text`` or a Hugging Face text tower makes a ``CustomTextCLIP``,
            with ``multimodal_cfg`` a ``CoCa``. Not changed.
        where: Named in errors.

    Returns:
        A float32 model in eval mode on the CPU.

    Raises:
        ConfigurationError: If open_clip cannot build it.
    """
    arguments = copy.deepcopy(architecture)
    custom_text = arguments.pop("custom_text", False)
    custom_text = custom_text or bool(arguments.get("text_cfg", {}).get("hf_model_name"))
    model_class: Any = open_clip.CLIP
    if custom_text:
        model_class = open_clip.CoCa if "multimodal_cfg" in arguments else open_clip.CustomTextCLIP
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: nn.Module = model_class(**arguments)
    except (
        AssertionError,
        AttributeError,
        KeyError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ConfigurationError(
            "open_clip cannot build this architecture",
            where=where,
            got=f"{type(error).__name__}: {error}",
        ) from error
    return model.eval()


def make_tokenizer(architecture: dict[str, Any], folder: Path | None = None) -> Tokenizer:
    """The tokenizer an architecture asks for.

    Args:
        architecture: open_clip's model configuration.
        folder: A Hugging Face tokenizer's files. Without it they are fetched by their name.

    Raises:
        ConfigurationError: If it cannot be made.
    """
    text: dict[str, Any] = architecture["text_cfg"]
    context_length = text.get("context_length", open_clip.factory.DEFAULT_CONTEXT_LENGTH)
    arguments = dict(text.get("tokenizer_kwargs") or {})
    name = text.get("hf_tokenizer_name")
    if not name:
        return _simple_tokenizer(context_length, json.dumps(arguments))
    try:
        hugging_face: Tokenizer = open_clip.tokenizer.HFTokenizer(
            str(folder or name),
            context_length=context_length,
            tokenizer_mode=text.get("tokenizer_mode"),
            **arguments,
        )
    except ImportError as error:
        raise ConfigurationError(
            "this text tower's tokenizer needs another package",
            where=name,
            got=error,
            todo="pip install transformers sentencepiece",
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            "the tokenizer cannot be loaded", where=folder or name, got=error
        ) from error
    return hugging_face


@cache
def _simple_tokenizer(context_length: int, arguments: str) -> Tokenizer:
    # once for each process: reading the vocabulary takes longer than reading a small bundle
    simple: Tokenizer = open_clip.SimpleTokenizer(
        context_length=context_length, **json.loads(arguments)
    )
    return simple


def uses_hugging_face_text(model: nn.Module) -> bool:
    """Whether the text tower is a Hugging Face model, whose own configuration is needed too."""
    return isinstance(getattr(model, "text", None), HFTextEncoder)


def _load_from_hub(name: str) -> Towers:
    try:
        architecture = open_clip.factory.get_model_config(name)
        model = open_clip.create_model(name, require_pretrained=True, weights_only=True)
    except Exception as error:  # hub clients raise whatever their transport does
        raise ConfigurationError(
            "the towers cannot be loaded", where=name, got=f"{type(error).__name__}: {error}"
        ) from error
    return _make_towers(model.eval(), architecture, dict(model.visual.preprocess_cfg))


def _read_architecture(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model configuration and the preprocessing that comes with it."""
    preprocess = dict(vars(PreprocessCfg()))
    if not name.endswith(".json"):
        architecture = open_clip.factory.get_model_config(name)
        if architecture is None:
            raise ConfigurationError(
                "open_clip knows no such architecture",
                where="towers.architecture",
                expected="a name from open_clip.list_models(), hf-hub:owner/name, or a .json file",
                got=name,
            )
        return architecture, preprocess
    try:
        data = json.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            "the architecture file cannot be read", where=name, got=error
        ) from error
    # a model's own file, or the open_clip_config.json of a hub, which wraps it
    architecture = data.get("model_cfg", data) if isinstance(data, dict) else {}
    if missing := [key for key in _REQUIRED_KEYS if key not in architecture]:
        raise ConfigurationError(
            "not an open_clip model configuration", where=name, got=f"no {', '.join(missing)}"
        )
    return architecture, merge_preprocess_dict(preprocess, data.get("preprocess_cfg", {}))


def _find_checkpoint(name: str, pretrained: str) -> tuple[Path, dict[str, Any]]:
    """A local checkpoint, and what open_clip knows of its tag (nothing for files)."""
    tag: dict[str, Any] = open_clip.get_pretrained_cfg(name, pretrained)
    if tag:
        try:
            return Path(open_clip.download_pretrained(tag)), tag
        except Exception as error:  # whatever the transport raises
            raise ConfigurationError(
                "the pretrained weights cannot be fetched",
                where=f"{name}, {pretrained}",
                got=f"{type(error).__name__}: {error}",
                todo="check the network, or give a local checkpoint",
            ) from error
    if not Path(pretrained).is_file():
        raise ConfigurationError(
            "neither a pretrained tag nor a file",
            where="towers.pretrained",
            expected=f"a file, or one of {open_clip.list_pretrained_tags_by_model(name)}",
            got=pretrained,
        )
    return Path(pretrained), {}


def _load_weights(model: nn.Module, checkpoint: Path) -> None:
    try:
        # strict, and never unpickling more than tensors
        load_checkpoint(model, str(checkpoint), strict=True, weights_only=True)
    except (RuntimeError, OSError, KeyError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            "the checkpoint does not fit the architecture", where=checkpoint, got=error
        ) from error
    except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise ConfigurationError(
            "the checkpoint is not a safetensors file or a torch file of tensors alone",
            where=checkpoint,
            got=str(error).split(". ")[0],
        ) from error


def _without_downloads(architecture: dict[str, Any]) -> dict[str, Any]:
    """A copy that builds without fetching weights for single towers."""
    architecture = copy.deepcopy(architecture)
    if "timm_model_name" in architecture["vision_cfg"]:
        architecture["vision_cfg"]["timm_model_pretrained"] = False
    if architecture["text_cfg"].get("hf_model_name"):
        architecture["text_cfg"]["hf_model_pretrained"] = False
    return architecture


def _make_towers(
    model: nn.Module, architecture: dict[str, Any], preprocess: dict[str, Any]
) -> Towers:
    visual: Any = model.get_submodule("visual")
    return Towers(
        model=model.to(dtype=torch.float32),
        tokenizer=make_tokenizer(architecture),
        preprocessing=Preprocessing.from_open_clip({**preprocess, "size": visual.image_size}),
        architecture=_without_downloads(architecture),
    )
