"""The `data` section: where pictures and masks come from, told apart by `source`, and how training crops are drawn."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from .faults import show
from .section import PositiveInt, Section


class _Data(Section):
    crop_size: int = Field(512, ge=32, description="side of the square training crops, in pixels")
    scale: tuple[float, float] = Field((0.5, 2.0), description="smallest and largest resize before the crop")
    max_class_share: float = Field(0.75, gt=0, le=1, description="no class fills more of a crop (void not counted)")
    flip: bool = Field(True, description="mirror half of the crops, left to right")
    photometric: bool = Field(True, description="jitter brightness, contrast, saturation and hue")
    num_proc: PositiveInt | None = Field(None, description="processes that prepare the label maps; null is one")

    @field_validator("scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"{list(value)} is not accepted; write two numbers above 0, smaller first: [0.5, 2.0].")
        return value


class FolderData(_Data):
    """Images and masks in folders, paired by file stem."""

    source: Literal["folder"]
    root: str = Field(min_length=1, description="the folder; relative to where the command runs")
    image: str = Field("images/{split}", description="folder of images below root; {split} is filled in")
    mask: str = Field("masks/{split}", description="folder of masks below root")
    train: str = Field("train", description="split name, or a text file below root with one stem a line")
    validation: str = Field("val", description="split name, or a text file below root with one stem a line")

    @model_validator(mode="after")
    def _splits_differ(self) -> FolderData:
        if self.train == self.validation:
            raise ValueError(
                f"train and validation are both {show(self.train)}, so the score would be taken on the training images."
            )
        if self.image == self.mask:
            raise ValueError(f"image and mask are both {show(self.image)}; they are two folders.")
        if ("{split}" in self.image) != ("{split}" in self.mask):
            raise ValueError("only one of image and mask holds {split}; write it in both or in neither.")
        return self


class SyntheticRetinaData(_Data):
    """Fundus-like pictures that the package draws from a seed: 0 background, 1 artery, 2 vein, 3 optic disc."""

    source: Literal["synthetic-retina"]
    num_train: PositiveInt = Field(160, description="training pictures")
    num_validation: PositiveInt = Field(32, description="validation pictures")
    size: int = Field(256, ge=32, description="side of the pictures, in pixels")
    seed: int = Field(0, ge=0, description="the same seed draws the same pictures")


Data = Annotated[FolderData | SyntheticRetinaData, Field(discriminator="source")]
