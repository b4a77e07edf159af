"""A loaded model behind one method: pixels in, embeddings and scores out.

Knows nothing of files, images or Spark. Shapes: B images, L labels, D embedding, H W input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from open_clip.model import convert_weights_to_lp
from torch import Tensor, nn

from pipeline.config import Precision
from pipeline.errors import ModelError
from pipeline.images.preprocess import Preprocessing
from pipeline.models.bundle import Bundle
from pipeline.models.bundle_info import model_version
from pipeline.models.labels import Tokenizer, embed_texts
from pipeline.models.mumic import MuMIC
from pipeline.models.scoring import FloatArray, score
from pipeline.taxonomy import Taxonomy

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Rows are normalised in float32; what is further from length 1 was no direction at all.
_LENGTH_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model makes of a batch.

    Attributes:
        embeddings: [B, D], float32, rows of length 1: what is stored.
        scores: [B, L], float32, 0 to 1, in the taxonomy's order.
        modality_weights: Task to modality to weight, of each image; None: one modality only.
        text_cut: Whether an image's text was cut; None: no text is read.
    """

    embeddings: FloatArray
    scores: FloatArray
    modality_weights: Sequence[Mapping[str, Mapping[str, float]]] | None = None
    text_cut: Sequence[bool] | None = None


class Predictor:
    """MuMIC on one device in one precision.

    The image tower computes in ``precision``; texts, normalisation and scores are float32 always.

    Args:
        mumic: In eval mode, float32, on its device. Its image tower's weights are converted in
            place where the precision is lower.
        tokenizer: The text tower's.
        preprocessing: Mean, std and size of the input.
        taxonomy: Labels in score order.
        label_embeddings: g, [L, D], float32, rows of length 1.
        tau: Temperature of the scores, the bundle's to the last bit.
        bias: Bias of the scores.
        version: The model's version.
        precision: Arithmetic of the image tower.
    """

    def __init__(
        self,
        mumic: MuMIC,
        *,
        tokenizer: Tokenizer,
        preprocessing: Preprocessing,
        taxonomy: Taxonomy,
        label_embeddings: FloatArray,
        tau: float,
        bias: float,
        version: str,
        precision: Precision = "fp32",
    ) -> None:
        self.taxonomy = taxonomy
        self.preprocessing = preprocessing
        self.model_version = version
        self.tau = tau
        self.bias = bias
        self.label_embeddings = label_embeddings
        self._mumic = mumic
        self._tokenizer = tokenizer
        self._device = mumic.logit_scale.device
        self._dtype = _DTYPES[precision]
        self._mean = self._channels(preprocessing.mean)
        self._std = self._channels(preprocessing.std)
        _prepare_image_tower(mumic.clip.visual, self._dtype)

    @classmethod
    def from_bundle(
        cls,
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
            precision: Arithmetic of the image tower; part of the model's version.
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
        return cls(
            bundle.load_model(device),
            tokenizer=bundle.load_tokenizer(),
            preprocessing=bundle.preprocessing,
            taxonomy=bundle.taxonomy,
            label_embeddings=bundle.label_embeddings,
            tau=bundle.info.tau,
            bias=bundle.info.logit_bias,
            version=model_version(
                bundle.info, precision=precision, scaled_decoding=scaled_decoding
            ),
            precision=precision,
        )

    @property
    def taxonomy_version(self) -> str:
        """The taxonomy's version."""
        return self.taxonomy.version

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    def predict(
        self, pixels: npt.NDArray[np.uint8], texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """Embed and score a batch; rows do not depend on each other beyond rounding.

        Args:
            pixels: [B, H, W, 3], uint8 RGB, resized and cropped.
            texts: Not read by MuMIC.

        Raises:
            ModelError: If the input has a wrong shape, the device fails, or the output is not
                B finite rows.
        """
        return self.submit(pixels, texts)()

    def submit(
        self, pixels: npt.NDArray[np.uint8], texts: Sequence[str | None] | None = None
    ) -> Callable[[], Prediction]:
        """Start a batch; the returned call waits for it.

        On a GPU this returns as soon as the work is queued, so that the next batch is decoded in
        the meantime. On a CPU the work is done on return.

        Args:
            pixels: [B, H, W, 3], uint8 RGB.
            texts: Not read by MuMIC.

        Raises:
            ModelError: As :meth:`predict`; the returned call raises it too.
        """
        del texts
        self._validate_pixels(pixels)
        try:
            with self._on_device():
                embeddings, done = self._encode(pixels)
        except RuntimeError as error:
            raise _device_error(error, len(pixels), self._device) from error

        def wait() -> Prediction:
            try:
                if done is not None:
                    done.synchronize()
            except RuntimeError as error:
                raise _device_error(error, len(pixels), self._device) from error
            rows = embeddings.numpy()
            self._validate_embeddings(rows, len(pixels))
            return Prediction(embeddings=rows, scores=self.score(rows))

        return wait

    def score(self, embeddings: FloatArray) -> FloatArray:
        """Scores of stored embeddings, [B, D] to [B, L], both float32."""
        return score(embeddings, self.label_embeddings, self.tau, self.bias)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> FloatArray:
        """Embed any texts with the text tower: N texts to [N, D], float32, rows of length 1."""
        rows: FloatArray = embed_texts(self._mumic, self._tokenizer, texts).numpy()
        return rows

    @torch.inference_mode()
    def _encode(self, pixels: npt.NDArray[np.uint8]) -> tuple[Tensor, torch.cuda.Event | None]:
        """Embeddings on the CPU, [B, D] float32, valid once the event (if any) has passed."""
        inputs = torch.from_numpy(pixels)
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            inputs = inputs.pin_memory().to(self._device, non_blocking=True)
        # NHWC bytes permuted are a channels-last tensor: no copy. The order of operations is
        # that of open_clip's transform (ToTensor, Normalize).
        floats = inputs.permute(0, 3, 1, 2).to(torch.float32).div_(255)
        floats = floats.sub_(self._mean).div_(self._std)
        with self._autocast():
            embeddings = self._mumic.encode_images(floats)
        if not on_gpu:
            return embeddings, None
        host = torch.empty(embeddings.shape, dtype=torch.float32, pin_memory=True)
        host.copy_(embeddings, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self._device))
        return host, done

    def _on_device(self) -> AbstractContextManager[object]:
        """Pinned memory and events belong to the current device, which may be another GPU."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _autocast(self) -> AbstractContextManager[object]:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def _channels(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device).view(1, 3, 1, 1)

    def _validate_pixels(self, pixels: npt.NDArray[np.uint8]) -> None:
        expected = (self.preprocessing.height, self.preprocessing.width, 3)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != expected or not len(pixels):
            raise ModelError(
                "the model was given wrong pixels",
                where=self.model_version,
                expected=f"uint8 [B, {', '.join(map(str, expected))}]",
                got=f"{pixels.dtype} {list(pixels.shape)}",
            )

    def _validate_embeddings(self, rows: FloatArray, n_images: int) -> None:
        expected = (n_images, self.label_embeddings.shape[1])
        if rows.shape != expected:
            raise ModelError(
                "the model gave a wrong shape",
                where=self.model_version,
                expected=list(expected),
                got=list(rows.shape),
            )
        lengths = np.linalg.norm(rows, axis=1)
        # written so that NaN fails too
        wrong = ~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE)
        if wrong.any():
            raise ModelError(
                "the model gave embeddings that are not numbers of length 1",
                where=self.model_version,
                got=f"{int(wrong.sum())} of {n_images} rows, the first of length "
                f"{lengths[wrong][0]}",
                todo="use precision fp32 or bf16, or check the weights",
            )


def _prepare_image_tower(visual: nn.Module, dtype: torch.dtype) -> None:
    """Convert weights once, so that autocast need not for each batch."""
    visual.to(memory_format=torch.channels_last)
    if dtype != torch.float32:
        convert_weights_to_lp(visual, dtype=dtype)


def _device_error(error: RuntimeError, n_images: int, device: torch.device) -> ModelError:
    out_of_memory = isinstance(error, torch.OutOfMemoryError)
    return ModelError(
        "the device ran out of memory" if out_of_memory else "the model failed on its device",
        where=f"{device}, batch of {n_images}",
        got=str(error).splitlines()[0] if str(error) else type(error).__name__,
        todo="lower model.batch_size" if out_of_memory else None,
    )
