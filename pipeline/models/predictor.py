"""A loaded model behind one method: pixels and texts in, embeddings and scores out.

What all kinds of models share: devices, precision, checks of what goes in and comes out. The kinds
are :mod:`pipeline.models.mumic_predictor` and :mod:`pipeline.models.cma_predictor`;
:func:`pipeline.models.serving.load_predictor` makes the one a bundle asks for.
Knows nothing of files, images or Spark. Shapes: B images, L labels, D embedding, H W input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from open_clip.model import convert_weights_to_lp
from torch import Tensor, nn

from pipeline.config import Precision
from pipeline.errors import ModelError
from pipeline.images.preprocess import Preprocessing
from pipeline.models.inference_blocks import arrange_blocks
from pipeline.models.int8 import quantize_linears
from pipeline.models.labels import TextEncoder, Tokenizer, embed_texts
from pipeline.models.scoring import FloatArray
from pipeline.taxonomy import Taxonomy

Source = Literal["image", "text", "both"]

# of all but the linear layers that int8 rounds
_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float32,
}
# Rows are normalised in float32; what is further from length 1 was no direction at all.
_LENGTH_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model makes of a batch.

    Attributes:
        scores: [B, L], float32, 0 to 1, in the taxonomy's order.
        embeddings: [B, D], float32, rows of length 1: what is stored. None: there were no images.
        sources: What each row's scores were made from; None: from images.
        modality_weights: Task to modality to weight, of each row; None: one modality only.
        text_cut: Whether a row's text was cut, None for rows without one; None: no text is read.
    """

    scores: FloatArray
    embeddings: FloatArray | None
    sources: Sequence[Source] | None = None
    modality_weights: Sequence[Mapping[str, Mapping[str, float]]] | None = None
    text_cut: Sequence[bool | None] | None = None


class Predictor(ABC):
    """A model on one device in one precision.

    Args:
        encoder: The model; texts alone are embedded by it.
        tokenizer: The text tower's.
        preprocessing: Mean, std and size of the input.
        taxonomy: Labels in score order.
        embedding_size: D.
        version: The model's version.
        precision: Arithmetic of the towers that are read for each image.
    """

    reads_text = False
    """Whether a text can change a prediction, and make one without an image."""
    scores_from_embedding = False
    """Whether an image's embedding is all that its scores are made from."""

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        tokenizer: Tokenizer,
        preprocessing: Preprocessing,
        taxonomy: Taxonomy,
        embedding_size: int,
        version: str,
        precision: Precision = "fp32",
    ) -> None:
        self.taxonomy = taxonomy
        self.preprocessing = preprocessing
        self.model_version = version
        self.embedding_size = embedding_size
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._device = encoder.device
        self._precision = precision
        self._dtype = _DTYPES[precision]
        self._mean = self._channels(preprocessing.mean)
        self._std = self._channels(preprocessing.std)

    @property
    def taxonomy_version(self) -> str:
        """The taxonomy's version."""
        return self.taxonomy.version

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    def predict(
        self,
        pixels: npt.NDArray[np.uint8] | None,
        texts: Sequence[str | None] | None = None,
    ) -> Prediction:
        """Embed and score a batch; rows do not depend on each other beyond rounding.

        Arguments and errors as :meth:`submit`'s.
        """
        return self.submit(pixels, texts)()

    def submit(
        self,
        pixels: npt.NDArray[np.uint8] | None,
        texts: Sequence[str | None] | None = None,
    ) -> Callable[[], Prediction]:
        """Start a batch; the returned call waits for it.

        On a GPU this returns as soon as the work is queued, so that the next batch is decoded in
        the meantime. On a CPU the work is done on return.

        Args:
            pixels: [B, H, W, 3], uint8 RGB, resized and cropped. None: rows without images, which
                a model that reads texts can predict from those.
            texts: B texts, None for rows without one. Not read by every model.

        Raises:
            ModelError: If the input has a wrong shape, the device fails, or the output is not
                B finite rows; the returned call raises it too.
        """
        if pixels is not None:
            self._validate_pixels(pixels)
        n_rows = len(texts or ()) if pixels is None else len(pixels)
        given = self._read_texts(texts, pixels is not None, n_rows)
        try:
            with self._on_device():
                outputs, done = self._compute(pixels, given)
        except RuntimeError as error:
            raise _device_error(error, n_rows, self._device) from error

        def wait() -> Prediction:
            try:
                if done is not None:
                    done.synchronize()
            except RuntimeError as error:
                raise _device_error(error, n_rows, self._device) from error
            return self._finish([one.numpy() for one in outputs], given, n_rows)

        return wait

    def embed_texts(self, texts: Sequence[str]) -> FloatArray:
        """Embed any texts with the text tower: N texts to [N, D], float32, rows of length 1."""
        with torch.inference_mode():
            rows: FloatArray = embed_texts(self._encoder, self._tokenizer, texts).numpy()
        return rows

    def can_score(self, embedding: FloatArray) -> bool:
        """Whether scores follow from this stored embedding: of this model's size and length 1."""
        if not self.scores_from_embedding or embedding.shape != (self.embedding_size,):
            return False
        # False for NaN too
        return bool(np.abs(np.linalg.norm(embedding) - 1) <= _LENGTH_TOLERANCE)

    def predict_from_embeddings(self, embeddings: FloatArray) -> Prediction:
        """What the model makes of images whose embeddings are known, [B, D].

        Raises:
            ModelError: Scores of this kind of model are made from more than that.
        """
        raise ModelError(
            "this kind of model makes no scores from embeddings alone",
            where=self.model_version,
            got=f"{len(embeddings)} embeddings",
        )

    def score_zero_shot(self, embeddings: FloatArray, texts: FloatArray) -> FloatArray:
        """Scores of stored embeddings against embedded texts, [B, D] and [N, D] to [B, N].

        Raises:
            ModelError: The model answers its own tasks only.
        """
        raise ModelError(
            "this kind of model scores the labels of its taxonomy only",
            where=self.model_version,
            todo="use a MuMIC bundle for zero-shot scores",
        )

    @abstractmethod
    def _read_texts(self, texts: Sequence[str | None] | None, images: bool, n_rows: int) -> Any:
        """What the model needs of the texts; on the CPU."""

    @abstractmethod
    def _run(self, planes: Tensor | None, given: Any) -> tuple[Tensor, ...]:
        """The model, on its device: [B, 3, H, W] float32, and what ``_read_texts`` gave."""

    @abstractmethod
    def _finish(self, outputs: list[FloatArray], given: Any, n_rows: int) -> Prediction:
        """What ``_run`` gave, as a prediction."""

    @torch.inference_mode()
    def _compute(
        self, pixels: npt.NDArray[np.uint8] | None, given: Any
    ) -> tuple[list[Tensor], torch.cuda.Event | None]:
        """Outputs on the CPU, float32, valid once the event (if any) has passed."""
        planes = None
        if pixels is not None:
            # NHWC bytes permuted are a channels-last tensor: no copy. The order of operations is
            # that of open_clip's transform (ToTensor, Normalize).
            planes = self._to_device(torch.from_numpy(pixels)).permute(0, 3, 1, 2)
            planes = planes.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)
        with self._autocast():
            outputs = self._run(planes, given)
        if self._device.type != "cuda":
            return list(outputs), None
        hosts = [torch.empty(one.shape, dtype=torch.float32, pin_memory=True) for one in outputs]
        for host, output in zip(hosts, outputs, strict=True):
            host.copy_(output, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self._device))
        return hosts, done

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _on_device(self) -> AbstractContextManager[object]:
        """Pinned memory and events belong to the current device, which may be another GPU."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _autocast(self) -> AbstractContextManager[object]:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def _prepare_tower(
        self, tower: nn.Module, image_tower: nn.Module, *, class_token_only: bool
    ) -> None:
        """Arrange it for inference; convert weights once, so that autocast need not each time.

        Args:
            tower: What computes in the precision: the image tower, or both.
            image_tower: What computes in int8.
            class_token_only: As :func:`arrange_blocks` has it.
        """
        tower.to(memory_format=torch.channels_last)
        arrange_blocks(tower, class_token_only=class_token_only)
        if self._precision == "int8":
            size = (self.preprocessing.height, self.preprocessing.width)
            quantize_linears(image_tower, self._device, torch.zeros(1, 3, *size))
        if self._dtype != torch.float32:
            convert_weights_to_lp(tower, dtype=self._dtype)

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
        expected = (n_images, self.embedding_size)
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


def _device_error(error: RuntimeError, n_rows: int, device: torch.device) -> ModelError:
    out_of_memory = isinstance(error, torch.OutOfMemoryError)
    return ModelError(
        "the device ran out of memory" if out_of_memory else "the model failed on its device",
        where=f"{device}, batch of {n_rows}",
        got=str(error).splitlines()[0] if str(error) else type(error).__name__,
        todo="lower model.batch_size" if out_of_memory else None,
    )
