"""What each modality is worth to a model that reads both: noise, and explanations of images.

Shapes: N images, L labels, K tasks, H W input.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipeline.config import EvaluateModelConfig, NoiseConfig
from pipeline.evaluation.noise import (
    NoisePoint,
    Pixels,
    Read,
    Reading,
    Texts,
    run_noise_protocol,
)
from pipeline.evaluation.thumbnails import encode_picture
from pipeline.images.loader import ImageLoader, LoadedImage
from pipeline.images.preprocess import Preprocessing
from pipeline.models.bundle import Bundle
from pipeline.models.cma_bundle import load_cma_clip
from pipeline.models.cma_clip import MODALITIES, CmaClip
from pipeline.models.explanations import Explanation, explain
from pipeline.models.labels import Tokenizer
from pipeline.models.predictor import Predictor
from pipeline.models.texts import tokenize_texts
from pipeline.taxonomy import Taxonomy
from pipeline.training.data import LabelledImages
from pipeline.training.validation import make_normaliser

_HEAT_COLOUR = (255.0, 30.0, 0.0)
_MOST_HEAT = 0.65
_SHOWN_SIDE = 224
# Of one image there is no other to swap with.
_FEWEST_NOISY = 2


@dataclass(frozen=True, kw_only=True)
class ExplainedImage:
    """An image with what its prediction rested on.

    Attributes:
        image_id: Its id.
        text: What stands beside it.
        word: The token that counted most.
        weights: What text and image counted, by task.
        picture: The model's input under the word's heat, a data URI.
    """

    image_id: str
    text: str | None
    word: str | None
    weights: Mapping[str, Mapping[str, float]]
    picture: str


@dataclass(frozen=True, kw_only=True)
class ModalityStudy:
    """What was found.

    Attributes:
        noise: Points of the noise protocol; none where it was not asked for.
        explained: Images explained.
    """

    noise: Sequence[NoisePoint]
    explained: Sequence[ExplainedImage]


def study_modalities(
    bundle: Bundle,
    predictor: Predictor,
    images: LabelledImages,
    positions: npt.NDArray[np.int64],
    *,
    explained: Sequence[int],
    taxonomy: Taxonomy,
    config: EvaluateModelConfig,
) -> ModalityStudy | None:
    """Study a model; None where it reads one modality alone.

    Args:
        bundle: The model's.
        predictor: The loaded model.
        images: The labelled manifest.
        positions: Of the images that are evaluated.
        explained: Positions of the images to explain.
        taxonomy: In force.
        config: Of the evaluation.
    """
    parts = bundle.info.cma_clip
    if parts is None or parts.modalities != "both":
        return None
    chosen = choose_images(positions, config.noise) if config.noise.enabled else positions[:0]
    loader = ImageLoader(
        config.fetch, config.decode, bundle.preprocessing, config.model.scaled_decoding
    )
    with loader:
        pixels, readable = load_pixels(images, [*chosen.tolist(), *explained], loader)
    place_of = {int(at): place for place, at in enumerate(readable)}
    shown = [place_of[at] for at in explained if at in place_of]
    noisy = np.flatnonzero(np.isin(readable, chosen))
    noise = []
    if len(noisy) >= _FEWEST_NOISY:
        noise = run_noise_protocol(
            make_reader(predictor, config.model.batch_size),
            pixels[noisy],
            [images.texts[at] for at in readable[noisy]],
            targets=images.targets[readable[noisy]],
            known=images.known[readable[noisy]],
            taxonomy=taxonomy,
            config=config.noise,
        )
    return ModalityStudy(
        noise=noise,
        explained=explain_images(
            load_cma_clip(bundle, predictor.device),
            bundle.load_tokenizer(),
            pixels[shown],
            [images.texts[at] for at in readable[shown]],
            ids=[images.ids[at] for at in readable[shown]],
            preprocessing=bundle.preprocessing,
            taxonomy=taxonomy,
        )
        if shown
        else [],
    )


def choose_images(positions: npt.NDArray[np.int64], config: NoiseConfig) -> npt.NDArray[np.int64]:
    """Some of the images, drawn by seed, in the manifest's order.

    Args:
        positions: Of the images there are.
        config: How many at most, and the seed.
    """
    generator = np.random.default_rng(config.seed)
    return np.sort(generator.permutation(positions)[: config.images])


def load_pixels(
    images: LabelledImages, positions: Iterable[int], loader: ImageLoader
) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Pixels of images that can be read, [N, H, W, 3], and their positions, [N].

    Args:
        images: The labelled manifest.
        positions: Which of its images.
        loader: At the model's input size.
    """
    wanted = sorted(set(positions))
    loaded = zip(wanted, loader.load(images.requests(wanted)), strict=True)
    found = [(at, image.pixels) for at, (_, image) in loaded if isinstance(image, LoadedImage)]
    pixels = np.stack([one for _, one in found]) if found else np.empty((0, 0, 0, 3), np.uint8)
    return pixels, np.array([at for at, _ in found], np.int64)


def make_reader(predictor: Predictor, batch_size: int) -> Read:
    """A loaded model as the noise protocol reads with it.

    Args:
        predictor: Of a model that tells modality weights.
        batch_size: Images per forward pass.
    """

    def read(pixels: Pixels, texts: Texts) -> Reading:
        scores, weights = [], []
        for start in range(0, len(pixels), batch_size):
            part = slice(start, start + batch_size)
            found = predictor.predict(pixels[part], texts[part])
            scores.append(found.scores.astype(np.float64))
            weights += [
                [[told[task.id][name] for name in MODALITIES] for task in predictor.taxonomy.tasks]
                for told in found.modality_weights or ()
            ]
        return Reading(scores=np.concatenate(scores), weights=np.array(weights))

    return read


def explain_images(
    model: CmaClip,
    tokenizer: Tokenizer,
    pixels: Pixels,
    texts: Sequence[str | None],
    *,
    ids: Sequence[str],
    preprocessing: Preprocessing,
    taxonomy: Taxonomy,
) -> list[ExplainedImage]:
    """Explain a handful of images, all in one batch.

    Args:
        model: In eval mode, float32.
        tokenizer: Its text tower's.
        pixels: [N, H, W, 3].
        texts: N of them.
        ids: N of them.
        preprocessing: The model's.
        taxonomy: Its tasks.
    """
    given = tokenize_texts(tokenizer, texts)
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().to(model.device)
    explanations = explain(
        model,
        tokenizer,
        make_normaliser(preprocessing, model.device)(planes),
        model.trim_padding(given.tokens).to(model.device),
        given.has_text.to(model.device),
    )
    return [
        ExplainedImage(
            image_id=image_id,
            text=text,
            word=one.word,
            weights=_name_weights(one, taxonomy),
            picture=encode_picture(_lay_heat(shown, one.heat)),
        )
        for image_id, text, shown, one in zip(ids, texts, pixels, explanations, strict=True)
    ]


def _name_weights(one: Explanation, taxonomy: Taxonomy) -> dict[str, dict[str, float]]:
    return {
        task.id: dict(zip(MODALITIES, map(float, shares), strict=True))
        for task, shares in zip(taxonomy.tasks, one.weights, strict=True)
    }


def _lay_heat(pixels: Pixels, heat: npt.NDArray[np.float32] | None) -> Pixels:
    """A picture under its heat; small inputs are enlarged, so that patches can be seen."""
    size = (max(_SHOWN_SIDE, pixels.shape[1]), max(_SHOWN_SIDE, pixels.shape[0]))
    picture = np.array(Image.fromarray(pixels).resize(size), np.float32)
    if heat is not None:
        spread = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR))
        share = (_MOST_HEAT * spread.clip(0, 1))[..., None]
        picture += share * (np.array(_HEAT_COLOUR, np.float32) - picture)
    return picture.clip(0, 255).astype(np.uint8)
