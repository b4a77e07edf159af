"""What an executor must know to tag as the driver expects. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pipeline.config import DecodeConfig, FetchConfig, ModelConfig
from pipeline.models.bundle_info import BundleInfo, model_version, read_bundle_info
from pipeline.models.locate import locate_bundle
from pipeline.registry.versions import resolve_model_uri
from pipeline.storage import absolute


@dataclass(frozen=True, kw_only=True)
class TaggerSettings:
    """Travels with the UDF to every worker; equal settings share a loaded model.

    Attributes:
        model: The model; its uri names the same bundle on every machine and at any time.
        fetch: How image bytes are fetched.
        decode: How bytes become pixels.
        score_floor: Scores below it are left out, 0 to 1.
        model_version: What the driver read from the bundle; another one on an executor is refused.
        taxonomy_version: As ``model_version``.
    """

    model: ModelConfig
    fetch: FetchConfig = field(default_factory=FetchConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    score_floor: float = 0.0
    model_version: str
    taxonomy_version: str


def read_settings(
    model: ModelConfig, fetch: FetchConfig, decode: DecodeConfig, *, score_floor: float = 0.0
) -> tuple[TaggerSettings, BundleInfo]:
    """Read and verify the bundle on the driver, and pin what executors will load.

    Args:
        model: As configured: the uri may be relative, or an alias of the registry.
        fetch: How image bytes are fetched.
        decode: How bytes become pixels.
        score_floor: Scores below it are left out, 0 to 1.

    Raises:
        BundleError: The bundle is missing, changed, or not one.
    """
    uri = absolute(resolve_model_uri(model.uri))  # an alias may move before executors look
    info = read_bundle_info(locate_bundle(uri, model.cache_dir))
    version = model_version(info, precision=model.precision, scaled_decoding=model.scaled_decoding)
    settings = TaggerSettings(
        model=replace(model, uri=uri),
        fetch=fetch,
        decode=decode,
        score_floor=score_floor,
        model_version=version,
        taxonomy_version=info.taxonomy.version,
    )
    return settings, info
