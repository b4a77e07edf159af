"""From a bundle to the predictor that runs it: the one place that knows the kinds of models."""

from __future__ import annotations

import torch

from pipeline.config import Precision
from pipeline.models.bundle import Bundle
from pipeline.models.bundle_info import model_version
from pipeline.models.cma_bundle import load_cma_clip
from pipeline.models.cma_predictor import CmaClipPredictor
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
