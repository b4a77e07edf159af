"""The one tree of expected errors.

::

    PipelineError              exit code 1
      ConfigurationError       exit code 2
      ManifestError
      TaxonomyError
      BundleError
      CheckpointError          of a training: damaged, or another one's
      RegistryError            MLflow's store did not do what was asked
      DeviceError
      DecoderError             the processes that decode images cannot be started
      ModelError               the model broke its contract: NaN, wrong shape, too few rows
      PreflightError
      TablesError
        SchemaVersionError
        LeaseError             another job publishes, and did not end in time
      RunConflictError         a run id that belongs to another manifest, model or taxonomy
      HeldByAudit              exit code 3
      CandidateRefused         exit code 3: the comparison with the champion passed a limit

A message is one line: what happened, where, what was expected, what was found, what to do. Secrets
of the URIs in it are dropped: it may reach the log of an executor, or a ledger, by any way.
An image that cannot be fetched or decoded is not an error here: it is a row, see
:mod:`pipeline.images.reasons`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pipeline.redaction import redact


class PipelineError(Exception):
    """An expected error, told in one line.

    Args:
        what: What happened, as a sentence without a full stop.
        where: The file, table, column or key it happened at.
        expected: What would have been right.
        got: What was found instead.
        todo: What the reader should do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        todo: str | None = None,
    ) -> None:
        parts = [what]
        if where is not None:
            parts[0] = f"{what} [{where}]"
        if expected is not None:
            parts.append(f"expected {expected}")
        if got is not None:
            parts.append(f"got {got}")
        if todo is not None:
            parts.append(todo)
        super().__init__(redact("; ".join(" ".join(part.split()) for part in parts)))


class ConfigurationError(PipelineError):
    """The configuration cannot be used as it is."""

    exit_code = 2


class ManifestError(PipelineError):
    """The manifest cannot be read or breaks its contract."""


class TaxonomyError(PipelineError):
    """The taxonomy file breaks its contract."""


class BundleError(PipelineError):
    """The model bundle is missing, incomplete, or not what its hashes say."""


class CheckpointError(PipelineError):
    """A training's checkpoint cannot be written, is damaged, or belongs to another training."""


class RegistryError(PipelineError):
    """MLflow's store cannot be reached, or did not do what was asked."""


class DeviceError(PipelineError):
    """The device that was asked for is not there."""


class DecoderError(PipelineError):
    """The processes that decode images cannot be started: no image's fault."""


class ModelError(PipelineError):
    """The model broke its contract: NaN, a wrong shape, or too few rows."""


class PreflightError(PipelineError):
    """Executors differ from the driver in something that changes results."""


class TablesError(PipelineError):
    """The tables cannot be opened, created or written."""


class SchemaVersionError(TablesError):
    """The tables have another schema version than this product writes."""


class LeaseError(TablesError):
    """Another job holds the lease of the tables."""


class RunConflictError(PipelineError):
    """The run id belongs to a run with another manifest, model or taxonomy."""


class _Verdict(PipelineError):  # noqa: N818
    """A limit was passed: nothing changed, nothing is lost.

    Args:
        what: As for every error.
        summary: Of what was judged.
        **told: As for every error.
    """

    exit_code = 3

    def __init__(
        self, what: str, *, summary: Mapping[str, object] | None = None, **told: Any
    ) -> None:
        super().__init__(what, **told)
        self.summary = summary


class HeldByAudit(_Verdict):
    """The audit held the run: nothing was published, nothing is lost."""


class CandidateRefused(_Verdict):
    """The candidate did not stand up to the champion: the alias stays where it was."""
