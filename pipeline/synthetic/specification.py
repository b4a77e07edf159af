"""What a catalogue is asked to hold, and what one of its pictures is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.synthetic.damaged import DamagedInput

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class CatalogueSpec:
    """What a catalogue holds. Shares and rates lie between 0 and 1.

    Attributes:
        images: Images with a label; the changed ones of night 2 are drawn twice.
        seed: Of everything random.
        moved_rate: Share of the positives of train and validation that stand on a wrong label.
            The test split is always clean.
        unknown_rate: Share of the labels of a train image that nobody checked.
        wrong_title_rate: Share of titles that name things the picture does not show.
        validation_share: Share of the images in the validation split.
        test_share: Share of the images in the test split. These are also the nights' catalogue:
            what training never saw.
        new_share: Share of the nights' images that are first delivered on night 2.
        changed_share: Share of them that have another picture on night 2.
        deleted_share: Share of them that are deleted on night 2.
        duplicate_share: Share of the rows of night 3 that stand there twice.
        damaged: Deliver the damaged inputs too.
        max_side: Longest side of a picture; smaller ones are drawn faster, for tests.
    """

    images: int
    seed: int = 0
    moved_rate: float = 0.0
    unknown_rate: float = 0.0
    wrong_title_rate: float = 0.1
    validation_share: float = 0.08
    test_share: float = 0.22
    new_share: float = 0.15
    changed_share: float = 0.05
    deleted_share: float = 0.05
    duplicate_share: float = 0.1
    damaged: bool = True
    max_side: int = 1600

    def __post_init__(self) -> None:
        """Refuses what no catalogue can be."""
        for name, value in vars(self).items():
            if isinstance(value, float) and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {value}")
        if self.validation_share + self.test_share > 1:
            raise ValueError("validation_share and test_share must not exceed 1 together")

    def split(self, index: int) -> Split:
        """Returns the split of an image. Images are alike, so the order decides."""
        tests = round(self.images * self.test_share)
        validations = round(self.images * self.validation_share)
        if index >= self.images - tests:
            return "test"
        return "validation" if index >= self.images - tests - validations else "train"


@dataclass(frozen=True)
class Picture:
    """One version of one image of a catalogue, and the truth about it.

    Attributes:
        image_id: Of the image.
        version: ``1``, or ``2`` for what a changed image shows on night 2.
        uri: Absolute path of the file.
        split: Of the image.
        title: What stands beside the picture.
        labels: Label ids of what is visible.
        attributes: True values of the attributes that apply.
    """

    image_id: str
    version: str
    uri: str
    split: Split
    title: str
    labels: tuple[str, ...]
    attributes: dict[str, str]


@dataclass(frozen=True)
class Catalogue:
    """Where a catalogue is.

    Attributes:
        folder: Of all that follows.
        images: Folder of the pictures.
        labelled: Manifest with labels: train, validation, test.
        nights: Manifests of night 1, 2 and 3.
        truth: Of every picture (image_id, version) the true labels and attributes, where the
            labelled manifest may be wrong; of every failure the expected reason.
        taxonomy: The taxonomy (YAML).
        damaged: The damaged inputs that the nights deliver.
    """

    folder: Path
    images: Path
    labelled: Path
    nights: tuple[Path, Path, Path]
    truth: Path
    taxonomy: Path
    damaged: tuple[DamagedInput, ...]
