"""The `data` section: where images and masks come from, told apart by `source`, and how training crops are drawn."""

from __future__ import annotations

import typing
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..labels import LabelSpace
from .messages import show
from .strict import PositiveInt, Section

Share = Annotated[float, Field(gt=0, lt=1)]
Byte = Annotated[int, Field(ge=0, le=255)]

_SPLIT = "{split}"


class DataFields(Section):
    """What every source of data has beside where it is."""

    crop_size: int = Field(512, ge=32, description="side of the square training crops, in pixels")
    scale: tuple[float, float] = Field(
        (0.5, 2.0), description="smallest and largest resize before the crop, counted from base_size"
    )
    base_size: PositiveInt | None = Field(
        None,
        description="images are brought to this shorter side before scale, and evaluation.shortest_edge follows it; "
        "null counts from the stored size",
    )
    base_side: Literal["shorter", "longer"] = Field(
        "shorter", description="which side base_size is of; longer for EoMT's jitter (evaluation keeps to the shorter)"
    )
    scale_steps: int | None = Field(
        None, ge=2, description="draw among so many evenly spaced scales only; null is any between the two"
    )
    max_class_share: float = Field(0.75, gt=0, le=1, description="no class fills more of a crop (void not counted)")
    flip: bool = Field(True, description="mirror half of the crops, left to right")
    vertical_flip: bool = Field(False, description="mirror half of the crops, top to bottom: aerial, medical images")
    rotation: float = Field(0.0, ge=0, le=180, description="largest angle that crops are turned by, in degrees")
    rare_class_crops: float = Field(
        0.0, ge=0, le=1, description="share of crops drawn for a rare class: an image that holds it, about its pixels"
    )
    photometric: bool = Field(True, description="jitter brightness, contrast, saturation and hue")
    hue: float | None = Field(
        None, ge=0, le=0.5, description="largest turn of the hue by photometric, of a full turn; null is 18/255"
    )
    padding: tuple[Byte, Byte, Byte] | None = Field(
        None, description="red, green, blue beyond the image's rim, 0 to 255; null is the mean colour of the image"
    )
    padding_place: Literal["anywhere", "corner"] = Field(
        "anywhere", description="where an image smaller than the crop stands in it; corner is the upper left one"
    )
    on_bad_sample: Literal["error", "skip"] = Field(
        "error",
        description="at a broken file or a mask that does not fit: stop, or leave the sample out and say so",
    )
    max_pixels: PositiveInt = Field(180_000_000, description="images and masks of more pixels are bad samples")
    streaming: bool = Field(
        False, description="read training rows as they are needed, prepare nothing; needs training.max_steps"
    )
    shuffle_buffer: PositiveInt = Field(
        1000, description="of a stream: rows that wait in each worker's memory to be drawn from; 1 keeps their order"
    )
    num_proc: PositiveInt | None = Field(None, description="processes that prepare the label maps; null is one")

    @field_validator("scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"{list(value)} is not accepted; write two numbers above 0, smaller first: [0.5, 2.0].")
        return value

    @model_validator(mode="after")
    def _streamable(self) -> DataFields:
        if self.streaming and getattr(self, "source", "") == "mixture":
            raise ValueError("streaming: a mixture draws its rows by weight and cannot be streamed; write false.")
        return self

    def source_fields(self) -> dict[str, Any]:
        """The fields that say where the data is, as `data.sources.load_source` takes them."""
        return self.model_dump(exclude=set(DataFields.model_fields))


# ---------------------------------------------------------------------- where data is


class FolderSource(Section):
    """Images and masks in folders, paired by file name."""

    source: Literal["folder"]
    root: str = Field(min_length=1, description="the folder; relative to where the command runs")
    image: str = Field(
        "images/{split}", description="folder of images below root, or their names, e.g. {split}/{stem}_training.tif"
    )
    mask: str = Field("masks/{split}", description="folder of masks below root, or their names, e.g. {stem}_mask.*")
    train: str | None = Field(
        "train", description="what {split} stands for, or a text file of stems below root; null is every image"
    )
    validation: str | Share = Field("val", description="likewise; or a share of the training images, e.g. 0.2")

    @model_validator(mode="after")
    def _consistent(self) -> FolderSource:
        _check_splits(self, divided=_SPLIT in self.image, names="image and mask")
        if self.image == self.mask:
            raise ValueError(
                f"image and mask are both {show(self.image)}; they are two folders, or two names with {{stem}}."
            )
        if (_SPLIT in self.image) != (_SPLIT in self.mask):
            raise ValueError("only one of image and mask holds {split}; write it in both or in neither.")
        return self


class TableSource(Section):
    """A CSV or JSON Lines file that lists the paths of images and masks."""

    source: Literal["table"]
    file: str = Field(min_length=1, description="the .csv, .tsv or .jsonl file; {split} in it means a file a split")
    root: str | None = Field(None, description="folder that its paths start from; null is the folder of the file")
    image_column: str = Field("image", description="column of image paths")
    mask_column: str = Field("mask", description="column of mask paths")
    id_column: str | None = Field(None, description="column of names; null takes the image paths")
    split_column: str | None = Field(None, description="column that says which split a row belongs to")
    train: str | None = Field("train", description="what {split} or split_column holds; null is every row")
    validation: str | Share = Field("val", description="likewise; or a share of the training rows, e.g. 0.2")

    @model_validator(mode="after")
    def _consistent(self) -> TableSource:
        if _SPLIT in self.file and self.split_column:
            raise ValueError("file holds {split} and there is a split_column; rows are divided by one of them.")
        divided = _SPLIT in self.file or self.split_column is not None
        _check_splits(self, divided, names="file")
        if not divided and self.train is not None:
            raise ValueError(
                f"train is {show(self.train)}, but nothing divides the rows: write {{split}} in file, or split_column, "
                "or validation: 0.2 without train."
            )
        return self


class VocSource(Section):
    """The layout of Pascal VOC: JPEGImages, SegmentationClass, ImageSets/Segmentation."""

    source: Literal["voc"]
    root: str = Field(min_length=1, description="the folder that holds JPEGImages; relative to where the command runs")
    train: str = Field("train", description="a list in ImageSets/Segmentation, without .txt")
    validation: str | Share = Field("val", description="likewise; or a share of the training images, e.g. 0.2")

    @model_validator(mode="after")
    def _consistent(self) -> VocSource:
        _check_splits(self, divided=True)
        return self


class _Shapes(Section):
    root: str = Field(min_length=1, description="the folder; relative to where the command runs")
    image: str = Field("images/{split}", description="folder of images below root")
    annotations: str = Field(
        min_length=1, description="the annotations below root, with {split} where there are some for each split"
    )
    train: str | None = Field("train", description="what {split} stands for; null is every image")
    validation: str | Share = Field("val", description="likewise; or a share of the training images, e.g. 0.2")
    unlabelled: int = Field(
        description="the id of pixels that no shape holds: one of labels.ignore (such as 255) if nobody labelled them, "
        "one of labels.classes (such as 0) if they are background"
    )
    overlap: Literal["last", "first", "smallest"] = Field(
        description="which shape has a pixel that lies in several: last or first (in the file), or smallest"
    )
    boxes: Literal["fill", "skip"] | None = Field(
        None, description="boxes: fill, if all of a box is its class; skip, if it only says where an object is"
    )
    empty: Literal["keep", "skip"] | None = Field(
        None, description="images without annotation: keep, if there is nothing in them; skip, if they are to be done"
    )

    @model_validator(mode="after")
    def _consistent(self) -> _Shapes:
        _check_splits(self, divided=_SPLIT in self.annotations, names="annotations")
        if _SPLIT not in self.annotations:
            if self.train is not None:
                raise ValueError(
                    f"train is {show(self.train)}, but nothing divides the images: write {{split}} in annotations, or "
                    "validation: 0.2 without train."
                )
            if _SPLIT in self.image:
                raise ValueError(f"image is {show(self.image)}, but annotations holds no {{split}}; write it in both.")
        return self


class CocoSource(_Shapes):
    """A JSON file of COCO: polygons and runs of pixels; ids are its category ids."""

    source: Literal["coco"]
    crowd: Literal["class"] | int | None = Field(
        None, description="outlines of groups (iscrowd): class, as all others; or an id of labels.ignore"
    )
    holes: Literal["cut", "fill"] | None = Field(
        None, description="a polygon inside another of the same annotation: cut, it is a hole; fill, it is not"
    )


class YoloSource(_Shapes):
    """Polygons of YOLO: a text file an image; ids are its class numbers."""

    source: Literal["yolo"]


class NamedShapesSource(_Shapes):
    """Annotations of LabelMe (a JSON file an image), CVAT (its XML) or Label Studio (its JSON), which name classes."""

    source: Literal["labelme", "cvat", "label-studio"]
    names: dict[str, int] = Field({}, description="ids of names that are not in labels.classes, such as {unclear: 255}")
    several: Literal["first", "last"] | None = Field(
        None, description="label-studio: which annotation of an image that was annotated more than once"
    )


class _Columns(Section):
    image_column: str = Field("image", description="column of images")
    mask_column: str = Field("mask", description="column of masks: images, or arrays of ids")
    id_column: str | None = Field(None, description="column of names; null counts the rows")
    train: str = Field("train", description="split to train on")
    validation: str | Share = Field("validation", description="split to measure on; or a share of the training rows")

    @model_validator(mode="after")
    def _consistent(self) -> _Columns:
        _check_splits(self, divided=True)
        if self.image_column == self.mask_column:
            raise ValueError(f"image_column and mask_column are both {show(self.image_column)}.")
        return self


class HubSource(_Columns):
    """A dataset on the Hub that has a column of images and one of masks."""

    source: Literal["hub"]
    repo_id: str = Field(min_length=1, description="the dataset, owner/name; or a folder that is laid out like one")
    config: str | None = Field(None, description="its configuration (subset), where it has several")
    revision: str | None = Field(None, description="branch, tag or commit; null is its main branch")


class StoredSource(_Columns):
    """A dataset of the datasets library on disk: parquet files, `save_to_disk`, or an image folder with metadata."""

    source: Literal["parquet", "arrow", "imagefolder"]
    root: str = Field(min_length=1, description="the folder; relative to where the command runs")


class SyntheticRetinaSource(Section):
    """Fundus-like images that the package draws from a seed: 0 background, 1 artery, 2 vein, 3 optic disc."""

    source: Literal["synthetic-retina"]
    num_train: PositiveInt = Field(160, description="training images")
    num_validation: PositiveInt = Field(32, description="validation images")
    size: int = Field(256, ge=32, description="side of the images, in pixels")
    seed: int = Field(0, ge=0, description="the same seed draws the same images")


class MemorySource(Section):
    """A dataset that was given in Python, `hf_dinoseg.train(dataset=…)`. No file holds it: give it again to repeat the
    run or to measure the checkpoint."""

    source: Literal["memory"]
    kind: str | None = Field(None, description="what was given, in words; written by the run")
    fingerprint: str | None = Field(None, description="of the images and masks that were given; written by the run")
    image_column: str | None = Field(None, description="column or key of images; null looks for image, img …")
    mask_column: str | None = Field(None, description="column or key of masks; null looks for mask, label …")
    id_column: str | None = Field(None, description="column or key of names; null takes the paths, or counts")
    train: str | None = Field(None, description="split to train on; null is train, or the only one")
    validation: str | Share | None = Field(
        None, description="split to measure on, or a share of the training rows; null is validation or val, else 0.2"
    )


# ---------------------------------------------------------------------- the section


class FolderData(DataFields, FolderSource):
    __doc__ = FolderSource.__doc__


class TableData(DataFields, TableSource):
    __doc__ = TableSource.__doc__


class HubData(DataFields, HubSource):
    __doc__ = HubSource.__doc__


class StoredData(DataFields, StoredSource):
    __doc__ = StoredSource.__doc__


class VocData(DataFields, VocSource):
    __doc__ = VocSource.__doc__


class CocoData(DataFields, CocoSource):
    __doc__ = CocoSource.__doc__


class YoloData(DataFields, YoloSource):
    __doc__ = YoloSource.__doc__


class NamedShapesData(DataFields, NamedShapesSource):
    __doc__ = NamedShapesSource.__doc__


class SyntheticRetinaData(DataFields, SyntheticRetinaSource):
    __doc__ = SyntheticRetinaSource.__doc__


class MemoryData(DataFields, MemorySource):
    __doc__ = MemorySource.__doc__


class _Weighted(Section):
    weight: float = Field(1.0, gt=0, description="how often each training row is drawn in an epoch, on average")


class FolderEntry(_Weighted, FolderSource):
    __doc__ = FolderSource.__doc__


class TableEntry(_Weighted, TableSource):
    __doc__ = TableSource.__doc__


class HubEntry(_Weighted, HubSource):
    __doc__ = HubSource.__doc__


class StoredEntry(_Weighted, StoredSource):
    __doc__ = StoredSource.__doc__


class VocEntry(_Weighted, VocSource):
    __doc__ = VocSource.__doc__


class CocoEntry(_Weighted, CocoSource):
    __doc__ = CocoSource.__doc__


class YoloEntry(_Weighted, YoloSource):
    __doc__ = YoloSource.__doc__


class NamedShapesEntry(_Weighted, NamedShapesSource):
    __doc__ = NamedShapesSource.__doc__


class SyntheticRetinaEntry(_Weighted, SyntheticRetinaSource):
    __doc__ = SyntheticRetinaSource.__doc__


Entry = Annotated[
    FolderEntry
    | TableEntry
    | HubEntry
    | StoredEntry
    | VocEntry
    | CocoEntry
    | YoloEntry
    | NamedShapesEntry
    | SyntheticRetinaEntry,
    Field(discriminator="source"),
]


class MixtureData(DataFields):
    """Several sources with the same labels: trained on together, by weight; measured on together, each row once."""

    source: Literal["mixture"]
    sources: list[Entry] = Field(min_length=1, description="the sources, each with its own fields and a weight")


DataSection = (
    FolderData
    | TableData
    | HubData
    | StoredData
    | VocData
    | CocoData
    | YoloData
    | NamedShapesData
    | SyntheticRetinaData
    | MixtureData
    | MemoryData
)

Data = Annotated[DataSection, Field(discriminator="source")]

SECTIONS: tuple[type[DataFields], ...] = typing.get_args(DataSection)


def sources_of(section: type[DataFields]) -> tuple[str, ...]:
    """The values of `source` that one of `SECTIONS` describes."""
    return typing.get_args(section.model_fields["source"].annotation)


def _check_splits(source: Any, divided: bool, names: str = "") -> None:
    """Faults of `train` and `validation`.

    Where nothing divides the images and a share of them is held out, `train` is all of them unless it is given.
    """
    held_out = isinstance(source.validation, float)
    if held_out and not divided and "train" not in source.model_fields_set:
        object.__setattr__(source, "train", None)
    if source.train == source.validation:
        both = show(source.train)
        raise ValueError(f"train and validation are both {both}, so the score would be taken on the training images.")
    if source.train is None and divided:
        raise ValueError("train is null, but there are splits; name the one to train on.")
    if source.train is None and not held_out:
        raise ValueError(
            f"train is null and validation {show(source.validation)}; write a share, e.g. validation: 0.2, or write "
            f"{{split}} in {names}."
        )


def shape_faults(data: DataFields, labels: LabelSpace) -> list[str]:
    """Ids that sources of shapes give to pixels and that the labels do not hold."""
    entries = getattr(data, "sources", None)
    places = [("data", data)] if entries is None else [(f"data.sources[{n}]", entry) for n, entry in enumerate(entries)]
    faults = []
    for place, source in places:
        if not isinstance(source, _Shapes):
            continue
        if labels.encoding != "index":
            faults.append(
                f"labels.encoding: {labels.encoding} is about masks that are images; shapes have ids. Take it out."
            )
        given = {"unlabelled": source.unlabelled, "crowd": getattr(source, "crowd", None)}
        given |= {f"names.{name}": value for name, value in getattr(source, "names", {}).items()}
        faults += [
            f"{place}.{field}: {value} is neither in labels.classes nor in labels.ignore; write an id of labels.ignore "
            "for pixels that are left out, of labels.classes for a class such as background."
            for field, value in given.items()
            if isinstance(value, int) and value not in labels.train_ids
        ]
    return faults
