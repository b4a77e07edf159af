"""From a candidate to the champion: find, compare, judge, register, move the alias; and back.

The steps of ``register_model`` in order, and nothing else.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.config import RegisterModelConfig
from pipeline.errors import BundleError, CandidateRefused, ConfigurationError
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.comparison_report import make_figures, make_headline, write_table
from pipeline.evaluation.contest import compare_bundles
from pipeline.evaluation.verdict import find_broken
from pipeline.models.bundle import Bundle, read_bundle, write_with_taxonomy
from pipeline.models.bundle_info import BundleInfo, model_version, read_bundle_info
from pipeline.models.locate import locate_bundle
from pipeline.registry.champion import choose_rollback, move_alias, read_champion, read_history
from pipeline.registry.connection import Connection, connect
from pipeline.registry.registration import (
    Registered,
    find_version,
    register_bundle,
    validate_name,
)
from pipeline.registry.tracking import tracked_by
from pipeline.registry.versions import is_model_uri, pin_model
from pipeline.storage import validate_writable, write_text
from pipeline.taxonomy import read_taxonomy

_LOG = logging.getLogger(__name__)

JOB = "register_model"

Summary = dict[str, Any]


def run_registration(config: RegisterModelConfig, *, now: Callable[[], datetime]) -> Summary:
    """Register a candidate that stands up to the champion, or go back.

    Args:
        config: As configured.
        now: The time in UTC.

    Returns:
        The summary, plain JSON data: job, state (``registered``, ``unchanged``, ``rolled_back``,
        or ``compared`` for a dry run), model, alias, version, champion_before, model_version,
        taxonomy_version, the comparison's headline, seconds, the run.

    Raises:
        ConfigurationError: It is not said what to do, or where the registry is.
        CandidateRefused: A limit was passed; nothing changed.
        PipelineError: Bundle, sample, taxonomy or registry cannot be used; nothing changed.
    """
    started = time.monotonic()
    validate(config)
    connection = connect(config.tracking)
    summary = (roll_back if config.rollback else _promote)(config, connection, now)
    return summary | {"seconds": round(time.monotonic() - started, 1)}


def validate(config: RegisterModelConfig) -> None:
    """Refuse what cannot be meant, before anything is read.

    Raises:
        ConfigurationError: With the settings.
    """
    validate_name(config.name)
    if not config.tracking.enabled:
        raise ConfigurationError("registering needs MLflow", where="tracking.enabled")
    if config.rollback:
        if config.taxonomy is not None:
            raise ConfigurationError("a rollback takes no taxonomy", where="rollback, taxonomy")
    elif (config.candidate is None) == (config.taxonomy is None):
        raise ConfigurationError(
            "it is not said what to register",
            expected="one of --candidate (a bundle), --taxonomy (for the champion), --rollback",
        )
    if config.details is not None:
        validate_writable(config.details)


def roll_back(
    config: RegisterModelConfig, connection: Connection, now: Callable[[], datetime]
) -> Summary:
    """Move the alias back, to the version before or to a named one.

    Raises:
        ConfigurationError: The version is not one of this model.
        RegistryError: There is nothing to go back to, or it did already.
    """
    wanted = None
    if config.candidate is not None:
        pinned = pin_model(config.candidate, connection)
        if pinned.name != config.name:
            raise ConfigurationError(
                "a rollback stays with its model",
                where="candidate",
                expected=f"models:/{config.name}/VERSION",
                got=config.candidate,
            )
        wanted = pinned.version
    history = read_history(connection, config.name, config.alias)
    target = choose_rollback(history, wanted)
    standing = history[-1].version
    info = _read_version(config, connection, target)  # what cannot be loaded helps nobody
    if target != standing and not config.dry_run:
        move_alias(
            connection,
            config.name,
            config.alias,
            target,
            how="rolled_back",
            expected=standing,
            now=now(),
        )
    state = "unchanged" if target == standing else "rolled_back"
    return _summarise(
        config, info, state="compared" if config.dry_run else state, version=target, before=standing
    )


def _promote(
    config: RegisterModelConfig, connection: Connection, now: Callable[[], datetime]
) -> Summary:
    standing = read_champion(connection, config.name, config.alias)
    with tempfile.TemporaryDirectory(prefix="mumic-candidate-") as temp:
        champion = None
        if standing is not None:
            champion = read_bundle(_locate(config, connection, _uri(config, standing)))
        candidate = _find_candidate(config, connection, champion, Path(temp))
        if champion is not None and champion.info.digest == candidate.info.digest:
            _LOG.info("%s@%s is this bundle already", config.name, config.alias)
            return _summarise(
                config, candidate.info, state="unchanged", version=standing, before=standing
            )
        comparison = _compare(config, champion, candidate)
        broken = find_broken(comparison, config.limits) if comparison is not None else ()
        summary = _summarise(
            config,
            candidate.info,
            state="refused" if broken else "compared",
            version=find_version(connection, config.name, candidate.info.digest),
            before=standing,
        )
        headline: Summary = {}
        if comparison is not None:
            headline = make_headline(comparison, has_champion=champion is not None)
            if config.details is not None:
                write_text(config.details, write_table(comparison))
        summary |= headline
        if config.dry_run:
            if broken:
                raise _refuse(config, broken, summary)
            return summary
        with tracked_by(connection, config, job=JOB) as tracker:
            summary |= tracker.describe()
            if comparison is not None:
                tracker.log_metrics(make_figures(headline))
                tracker.log_json("comparison.json", summary)
                tracker.log_text("comparison.csv", write_table(comparison))
            if broken:
                tracker.log_tags({"refused": "; ".join(broken)})
                raise _refuse(config, broken, summary)
            registered = _register(config, connection, candidate.info, str(tracker.run_id))
            move_alias(
                connection,
                config.name,
                config.alias,
                registered.version,
                how="registered",
                expected=standing,
                now=now(),
            )
            return summary | {"state": "registered", "version": registered.version}


def _find_candidate(
    config: RegisterModelConfig, connection: Connection, champion: Bundle | None, folder: Path
) -> Bundle:
    if config.candidate is not None:
        return read_bundle(_locate(config, connection, config.candidate))
    if champion is None:
        raise BundleError(
            "there is no champion to give another taxonomy",
            where=f"{config.name}@{config.alias}",
            todo="register a bundle first, with --candidate",
        )
    taxonomy = read_taxonomy(str(config.taxonomy))
    return write_with_taxonomy(folder / "bundle", bundle=champion, taxonomy=taxonomy)


def _compare(
    config: RegisterModelConfig, champion: Bundle | None, candidate: Bundle
) -> Comparison | None:
    """The comparison; None for a first champion that nobody gave a sample for."""
    if config.sample is not None:
        return compare_bundles(config, config.sample, champion, candidate)
    if champion is not None:
        raise ConfigurationError(
            "there is nothing to compare the candidate with the champion on",
            where="sample.path",
            expected="a manifest of images, with labels or without",
        )
    _LOG.info("no champion and no sample: nothing is compared")
    return None


def _refuse(
    config: RegisterModelConfig, broken: tuple[str, ...], summary: Summary
) -> CandidateRefused:
    return CandidateRefused(
        "the candidate is refused, the alias stays",
        where=f"{config.name}@{config.alias}",
        got=f"limits.{'; limits.'.join(broken)}",
        todo="see --details for each label; set limits in conf/register_model.yaml",
        summary=summary,
    )


def _register(
    config: RegisterModelConfig, connection: Connection, info: BundleInfo, run_id: str
) -> Registered:
    """The version of a bundle, read back before an alias may stand for it."""
    registered = _version_of(config, connection, info) or register_bundle(
        connection,
        config.name,
        info,
        run_id=run_id,
        settings={
            "device": config.inference.device,
            "precision": config.inference.precision,
            "scaled_decoding": config.inference.scaled_decoding,
            "batch_size": config.inference.batch_size,
        },
        tags={
            "model_version": _model_version(config, info),
            "taxonomy_version": info.taxonomy.version,
            "product_version": info.product_version,
            "licence": info.licence,
        },
    )
    found = _read_version(config, connection, registered.version)
    if found.digest != info.digest:
        raise BundleError(
            "the registry gave back another bundle",
            where=registered.uri,
            expected=info.digest,
            got=found.digest,
        )
    return registered


def _version_of(
    config: RegisterModelConfig, connection: Connection, info: BundleInfo
) -> Registered | None:
    """The version that was named as the candidate, where it is one of this model."""
    if config.candidate is None or not is_model_uri(config.candidate):
        return None
    pinned = pin_model(config.candidate, connection)
    if pinned.name != config.name:
        return None
    return Registered(name=pinned.name, version=pinned.version, is_new=False)


def _read_version(config: RegisterModelConfig, connection: Connection, version: str) -> BundleInfo:
    return read_bundle_info(_locate(config, connection, _uri(config, version)))


def _locate(config: RegisterModelConfig, connection: Connection, uri: str) -> Path:
    return locate_bundle(uri, config.inference.cache_dir, connection)


def _uri(config: RegisterModelConfig, version: str) -> str:
    return f"models:/{config.name}/{version}"


def _model_version(config: RegisterModelConfig, info: BundleInfo) -> str:
    inference = config.inference
    return model_version(
        info, precision=inference.precision, scaled_decoding=inference.scaled_decoding
    )


def _summarise(
    config: RegisterModelConfig,
    info: BundleInfo,
    *,
    state: str,
    version: str | None,
    before: str | None,
) -> Summary:
    return {
        "job": JOB,
        "state": state,
        "model": config.name,
        "alias": config.alias,
        "version": version,
        "champion_before": before,
        "model_version": _model_version(config, info),
        "taxonomy_version": info.taxonomy.version,
    }
