"""The model of a bundle as runs see it: two UDFs and two versions."""

from __future__ import annotations

from pipeline.config import DecodeConfig, FetchConfig, ModelConfig
from pipeline.tagging.facts import Tagger
from udfs.score_embedding import make_score_embedding
from udfs.settings import TaggerSettings, read_settings
from udfs.tag_image import make_tag_image


def read_tagger(
    model: ModelConfig, fetch: FetchConfig, decode: DecodeConfig, *, score_floor: float
) -> tuple[TaggerSettings, Tagger]:
    """The model as a run sees it, and what executors must know of it.

    Args:
        model: As configured.
        fetch: How image bytes are fetched.
        decode: How bytes become pixels.
        score_floor: Scores below it are left out, 0 to 1.

    Raises:
        BundleError: The bundle is missing, changed, or not one.
    """
    settings, info = read_settings(model, fetch, decode, score_floor=score_floor)
    tagger = Tagger(
        tag=make_tag_image(settings),
        rescore=make_score_embedding(settings) if info.scores_from_embedding else None,
        model_version=settings.model_version,
        taxonomy=info.taxonomy,
        recalls=info.scores_from_embedding and model.remember_images > 0,
    )
    return settings, tagger
