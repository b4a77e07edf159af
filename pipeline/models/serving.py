"""From a bundle to what runs it: the one place that knows the kinds of models."""

from __future__ import annotations

from functools import partial

import torch

from pipeline.config import DecodeConfig, FetchConfig, InferenceConfig, ModelConfig, Precision
from pipeline.images.loader import ImageLoader, ImageRequest, KnownImage
from pipeline.models.bundle import Bundle
from pipeline.models.bundle_info import model_version
from pipeline.models.cma_bundle import load_cma_clip
from pipeline.models.cma_predictor import CmaClipPredictor
from pipeline.models.device import choose_device
from pipeline.models.engine import Engine, name_result
from pipeline.models.memory import Memory, Remembered
from pipeline.models.mumic_predictor import MumicPredictor
from pipeline.models.predictor import Predictor


def load_predictor(
    bundle: Bundle,
    *,
    device: torch.device | str,
    precision: Precision,
    scaled_decoding: bool,
    threads: int | None = None,
) -> Predictor:
    """Load a bundle's model.

    Args:
        bundle: Read and verified.
        device: From :func:`pipeline.models.device.choose_device`.
        precision: Arithmetic of the towers; part of the model's version.
        scaled_decoding: How the images will be decoded; part of the model's version.
        threads: Torch threads of this process on a CPU. None: as torch chose.

    Raises:
        BundleError: If the weights do not fit.
    """
    device = torch.device(device)
    if threads is not None and device.type == "cpu":
        torch.set_num_threads(threads)
    if device.type == "cuda" and precision == "fp32":
        torch.backends.cudnn.allow_tf32 = False  # cuDNN's default keeps 10 bits of 23
    version = model_version(bundle.info, precision=precision, scaled_decoding=scaled_decoding)
    if bundle.kind == "cma_clip":
        return CmaClipPredictor(
            load_cma_clip(bundle, device),
            tokenizer=bundle.load_tokenizer(),
            preprocessing=bundle.preprocessing,
            taxonomy=bundle.taxonomy,
            embedding_size=bundle.info.embedding_size,
            version=version,
            precision=precision,
        )
    return MumicPredictor(
        bundle.load_model(device),
        tokenizer=bundle.load_tokenizer(),
        preprocessing=bundle.preprocessing,
        taxonomy=bundle.taxonomy,
        label_embeddings=bundle.label_embeddings,
        tau=bundle.info.tau,
        bias=bundle.info.logit_bias,
        version=version,
        precision=precision,
    )


def make_engine(
    bundle: Bundle,
    inference: ModelConfig | InferenceConfig,
    fetch: FetchConfig,
    decode: DecodeConfig,
    *,
    device: str | None = None,
    tag_without_image: bool = False,
    memory: Memory | None = None,
) -> tuple[Engine, ImageLoader]:
    """An engine for a bundle, and its loader, which is to be closed where the process goes on.

    Args:
        bundle: The model.
        inference: How it is run.
        fetch: How bytes are fetched.
        decode: How bytes become pixels.
        device: In torch's words. Default: what ``inference`` asks for.
        tag_without_image: As :class:`pipeline.models.engine.Engine` has it.
        memory: As ``tag_without_image``.

    Raises:
        BundleError: The model cannot be loaded.
        DeviceError: A GPU was asked for and there is none.
    """
    predictor = load_predictor(
        bundle,
        device=device or choose_device(inference.device, ()),
        precision=inference.precision,
        scaled_decoding=inference.scaled_decoding,
        threads=inference.threads,
    )

    loader = ImageLoader(
        fetch,
        decode,
        bundle.preprocessing,
        inference.scaled_decoding,
        recall=partial(_recall, predictor, memory, decode.max_pixels),
    )
    engine = Engine(
        predictor,
        loader,
        inference.batch_size,
        tag_without_image=tag_without_image,
        memory=memory,
    )
    return engine, loader


def _recall(
    predictor: Predictor,
    memory: Memory | None,
    max_pixels: int,
    content_sha256: str,
    request: ImageRequest,
) -> KnownImage | Remembered | None:
    """What is known of these very bytes: from an earlier run, or by this executor."""
    known = request.known
    if known is not None and known.content_sha256 == content_sha256:
        # Decoding would refuse what a run with another limit took.
        is_small_enough = known.width * known.height <= max_pixels
        if is_small_enough and predictor.can_score(known.embedding):
            return known
    if memory is None:
        return None
    return memory.recall(name_result(predictor, content_sha256, request))
