"""The configuration of every job: names, types, defaults and their meaning, in one place.

The command line, the YAML files, ``--help`` and the errors for unknown keys are made from these
dataclasses by :mod:`pipeline.cli`. Nothing here reads a file or the environment.
"""

from pipeline.config.cma_clip import CmaClipConfig, Modalities, ModalityAttention
from pipeline.config.cma_training import CmaTrainingConfig, DisturbanceConfig
from pipeline.config.evaluation import (
    CalibrationConfig,
    EvaluateModelConfig,
    FiguresConfig,
    LabelErrorsConfig,
    NoiseConfig,
    ReportConfig,
)
from pipeline.config.registry import (
    InferenceConfig,
    LimitsConfig,
    RegisterModelConfig,
    SampleConfig,
    TrackingConfig,
)
from pipeline.config.sections import (
    AuditConfig,
    ColumnsConfig,
    CostConfig,
    DecodeConfig,
    Device,
    FetchConfig,
    LeaseConfig,
    LogConfig,
    ManifestConfig,
    ModelConfig,
    PaceConfig,
    Precision,
    RetryConfig,
    StageConfig,
    TablesConfig,
)
from pipeline.config.tables import (
    BackfillCatalogConfig,
    EraseImagesConfig,
    MaintainTablesConfig,
    PublishRunConfig,
    QueryTagsConfig,
    TagNightlyConfig,
)
from pipeline.config.training import (
    CheckpointConfig,
    DistributionConfig,
    LabelledManifestConfig,
    LossConfig,
    LossKind,
    OptimizerConfig,
    SuspectsConfig,
    TowersConfig,
    TrainModelConfig,
)

__all__ = [
    "AuditConfig",
    "BackfillCatalogConfig",
    "CalibrationConfig",
    "CheckpointConfig",
    "CmaClipConfig",
    "CmaTrainingConfig",
    "ColumnsConfig",
    "CostConfig",
    "DecodeConfig",
    "Device",
    "DistributionConfig",
    "DisturbanceConfig",
    "EraseImagesConfig",
    "EvaluateModelConfig",
    "FetchConfig",
    "FiguresConfig",
    "InferenceConfig",
    "LabelErrorsConfig",
    "LabelledManifestConfig",
    "LeaseConfig",
    "LimitsConfig",
    "LogConfig",
    "LossConfig",
    "LossKind",
    "MaintainTablesConfig",
    "ManifestConfig",
    "Modalities",
    "ModalityAttention",
    "ModelConfig",
    "NoiseConfig",
    "OptimizerConfig",
    "PaceConfig",
    "Precision",
    "PublishRunConfig",
    "QueryTagsConfig",
    "RegisterModelConfig",
    "ReportConfig",
    "RetryConfig",
    "SampleConfig",
    "StageConfig",
    "SuspectsConfig",
    "TablesConfig",
    "TagNightlyConfig",
    "TowersConfig",
    "TrackingConfig",
    "TrainModelConfig",
]
