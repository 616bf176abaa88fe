"""The configuration: YAML becomes frozen, checked values here, at the edge; functions elsewhere take plain keywords.

Each section is what one step depends on. ``canonical`` gives a section's one textual form, which the workflow passes to
the step and which alone makes the step stale. pydantic names a wrong key or type by its path and exports the JSON
schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from vertfrac.errors import ConfigError

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Step = Annotated[float, Field(ge=0.1, le=100)]
"""A distance of samples, mm: with the largest scan that is read it bounds the memory."""
Reach = Annotated[float, Field(ge=0, le=1000)]
Width = Annotated[float, Field(gt=0, le=1000)]
Spacing = tuple[Step, Step, Step]
Box = tuple[Positive, Positive, Positive]


def _ascending(window: tuple[float, float]) -> tuple[float, float]:
    if not window[0] < window[1]:
        raise ValueError(f"expected a lower and a higher number, found {list(window)}")
    return window


Window = Annotated[tuple[float, float], AfterValidator(_ascending)]


def _check_levels(widths: tuple[int, ...], output_stride: int) -> None:
    if output_stride not in (strides := [2**level for level in range(len(widths))]):
        raise ValueError(f"output_stride is {output_stride}, expected one of {strides} for {len(widths)} widths")


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys. Text may spell a number, since YAML reads 1e-3 as text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Ingredient = Literal[
    "arches", "thorax", "pelvis", "head", "organs", "muscles", "noise",
    "variants", "deformity", "collapse", "wear", "lesions", "metal", "protocol",
]  # fmt: skip
"""Ingredients of phantoms; the second row is of full difficulty only. docs/cohorts/phantom.md explains them."""


class PhantomCohort(Section):
    """Procedural phantoms, made by vertfrac itself: docs/cohorts/phantom.md."""

    kind: Literal["phantom"]
    cases: Count = Field(description="number of cases")
    seed: int = Field(1, description="seed of the cohort")
    difficulty: Literal["usual", "full"] = Field("usual", description="full: with all that is rare in patients")
    without: tuple[Ingredient, ...] = Field((), description="ingredients to leave out")
    like: str | None = Field(
        None,
        description="annotations of patients to grow phantoms around, in turn: a table of annotations, or a folder of "
        "LungCancer-500 JSON files",
    )
    like_spacing_mm: Spacing = Field(
        (0.7, 0.7, 0.8), description="distance of rows, columns and slices, which the JSON files do not hold"
    )


class NiftiCohort(Section):
    """Scans and annotations of one's own: docs/cohorts/nifti.md."""

    kind: Literal["nifti"]
    folder: str | None = Field(None, description="folder of scans, NIfTI or DICOM; cases.csv in it may list them")
    table: str | None = Field(None, description="instead of folder: table of scans anywhere, CSV or Parquet")
    annotations: str | None = Field(
        None,
        description="table (CSV, Parquet) or folder of JSON files; default: annotations.csv, annotations.parquet or "
        "annotations/ beside the scans' table or in the folder",
    )

    @model_validator(mode="after")
    def _one_list_of_scans(self) -> NiftiCohort:
        if (self.folder is None) == (self.table is None):
            found = "both" if self.folder else "neither"
            raise ValueError(f"expected folder or table, found {found}")
        return self


class LungCancer500Cohort(Section):
    """MosMedData CT_LUNGCANCER_500 with the public six-keypoint annotations of both papers."""

    kind: Literal["lungcancer500"]
    annotations: str = Field(description="folder with one JSON file per study, of the 2020 or the 2022 format")
    images: str = Field(description="folder with the DICOM series, in any layout; found by SeriesInstanceUID")


class VerseCohort(Section):
    """VerSe'19 and VerSe'20: vertebra masks, from which the keypoints come, and the experts' grades."""

    kind: Literal["verse"]
    folder: str = Field(description="folder that holds the parts of one release or of both, in either style")
    grades: str | None = Field(None, description="CSV table of fracture grades")
    parts: tuple[Literal["train", "validation", "test"], ...] = Field(
        ("train", "validation", "test"), min_length=1, description="parts of the public split to read"
    )
    centroid_mm: Positive = Field(15.0, description="a centroid farther from its label in the mask fails the case")
    keep_doubtful: bool = Field(False, description="use keypoints that the mask leaves doubtful too")


AnyCohort = PhantomCohort | NiftiCohort | LungCancer500Cohort | VerseCohort
Cohort = Annotated[AnyCohort, Field(discriminator="kind")]
"""Where the cases come from; the adapter is the module of vertfrac.cohorts that is named like the kind."""


class Folds(Section):
    """Which cases are held out from which training, by patient."""

    split: Literal["random", "published"] = Field(
        "random", description="random: cross-validation; published: the cohort's own split, one training"
    )
    k: Annotated[int, Field(ge=2)] = Field(5, description="random: folds")
    repeats: Count = Field(1, description="random: repeats with different splits")
    seed: int = Field(0, description="random: seed of the splits")
    held_out: Literal["test", "validation"] = Field(
        "test", description="published: the part that is scored; the other one takes no part"
    )

    @model_validator(mode="after")
    def _one_published_split(self) -> Folds:
        if self.split == "published" and self.repeats > 1:
            raise ValueError(f"repeats is {self.repeats}, expected 1 with a published split")
        return self

    @property
    def count(self) -> int:
        """Trainings per repeat."""
        return self.k if self.split == "random" else 1


class Slices(Section):
    """Straightened slices for training, cut along the annotated curve, shared by all folds, repeats and systems."""

    spacing_mm: Step = Field(1.0, description="pixel size of every straightened slice")
    width_mm: Width = Field(128.0, description="anterior-posterior width of a cached training slice")
    extend_mm: Reach = Field(40.0, description="how far a training slice goes on beyond the annotated curve")
    variants: Count = Field(4, description="differently jittered slices per case and expert; the first has no jitter")
    jitter_mm: NotNegative = Field(2.5, description="standard deviation of the curve's jitter, laterally and in depth")
    jitter_length_mm: Positive = Field(36.0, description="correlation length of the jitter along the curve")
    seed: int = Field(0, description="seed of the jitter")


class Schedule(Section):
    """The learning rate over the steps."""

    kind: Literal["cosine", "halving"] = Field("cosine", description="cosine: one cycle; halving: at milestones")
    warmup: Probability = Field(0.1, description="cosine: share of the steps until the peak")
    milestones: tuple[Count, ...] = Field((), description="halving: steps after which the rate halves")


class Training(Section):
    """One training run."""

    steps: Count = Field(description="optimisation steps")
    batch: Count = Field(description="samples per step")
    learning_rate: Positive = Field(description="peak learning rate of Adam")
    schedule: Schedule = Field(default_factory=Schedule)
    weight_decay: NotNegative = Field(0.0, description="decoupled weight decay (AdamW)")
    checkpoint_every: Count = Field(200, description="steps between checkpoints")
    seed: int = Field(0, description="seed of weights, samples and augmentation")
    average_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay per step of the exponential average of the weights, from half of the steps on; 0 is off"
    )
    mixed_precision: bool = Field(True, description="bfloat16 on a GPU; the CPU always runs float32, which is faster")


class VolumeAugmentation(Section):
    """Augmentation of stage-1 crops."""

    rotate_deg: NotNegative = 8.0
    tilt: NotNegative = Field(0.1, description="lateral and anterior shift per mm of height (shear)")
    scale: NotNegative = Field(0.15, description="relative change of size")
    flip: bool = Field(True, description="mirror left and right at random")
    intensity: NotNegative = Field(1.0, description="strength of brightness, contrast, blur and noise; 0 is off")
    appearance: NotNegative = Field(
        0.0, description="strength of the density of bone and fat, softness, uneven brightness, cut fields; 0 is off"
    )


class LocalizerNetwork(Section):
    widths: tuple[Count, ...] = Field(description="channels per level of the 3D U-Net")
    limits: Literal["none", "max", "channel"] = Field(
        description="where the limits come from: nowhere (P20), the maximum of the curve's map (Z22), their own channel"
    )
    output_stride: Count = Field(1, description="voxels per cell of the map; 1 as published")
    skip: Literal["concatenate", "add"] = Field(
        "concatenate", description="skip connections; add is three times cheaper"
    )

    @model_validator(mode="after")
    def _levels(self) -> LocalizerNetwork:
        _check_levels(self.widths, self.output_stride)
        return self


class LocalizerInput(Section):
    spacing_mm: Spacing = Field(description="voxel size of the resampled scan, x, y, z")
    edge_mm: Reach = Field(0.0, description="air added above and below, which shows the network where a scan ends")
    scaling: Literal["window", "min_max", "unit_variance"]
    window_hu: Window


class LocalizerLoss(Section):
    limits_weight: Positive = Field(1.0, description="weight of the limits; 1 as published")


class LocalizerInference(Section):
    limit_probability: Probability = Field(0.5, description="axial slices above it hold spine; their hull is kept")
    smooth_mm: NotNegative = Field(0.0, description="scale of the smoothing spline along the curve; 0 as published")
    extend_mm: Reach = Field(0.0, description="prolong the curve at both ends (20 for VerSe in Z22)")
    flip: bool = Field(False, description="average the prediction with that of the mirrored scan")
    weights: Literal["equal", "precision"] = Field(
        "equal", description="precision: slices and networks count by how narrow their maps are, in means and smoothing"
    )


class Localizer(Section):
    """Stage 1: the curve and its limits."""

    input: LocalizerInput
    network: LocalizerNetwork
    crop_mm: Box | None = Field(description="size of a training crop, x, y, z; null takes whole scans")
    augmentation: VolumeAugmentation = Field(default_factory=VolumeAugmentation)
    loss: LocalizerLoss = Field(default_factory=LocalizerLoss)
    training: Training
    inference: LocalizerInference = Field(default_factory=LocalizerInference)


class SliceAugmentation(Section):
    """Augmentation of stage-2 crops."""

    rotate_deg: NotNegative = 6.0
    scale: NotNegative = Field(0.15, description="relative change of height and depth, independently")
    elastic_mm: NotNegative = Field(1.2, description="standard deviation of a smooth random displacement")
    elastic_length_mm: Positive = Field(16.0, description="distance of its control points")
    shift_mm: NotNegative = Field(8.0, description="anterior-posterior shift")
    intensity: NotNegative = Field(1.0, description="strength of brightness, contrast, blur and noise; 0 is off")
    appearance: NotNegative = Field(
        0.0, description="strength of the density of bone and fat, softness, uneven brightness, cut fields; 0 is off"
    )


class _SliceNetwork(Section):
    widths: tuple[Count, ...] = Field(description="channels per level of the 2D U-Net")
    output_stride: Count = Field(1, description="pixels per output cell; 1 as published")
    skip: Literal["concatenate", "add"] = Field(
        "concatenate", description="skip connections; add is three times cheaper"
    )

    @model_validator(mode="after")
    def _levels(self) -> _SliceNetwork:
        _check_levels(self.widths, self.output_stride)
        return self


class AnchorFreeNetwork(_SliceNetwork):
    """Every pixel is an anchor (Z22)."""

    kind: Literal["anchor_free"]
    radius_mm: Positive = Field(5.0, description="pixels within it of a vertebra's centroid are positive")
    offset_scale_px: Positive = Field(1.0, description="pixels that a network output of 1 means; 1 as published")
    mean_offsets: bool = Field(False, description="predict differences from the mean vertebra of the training cases")
    levels: bool = Field(False, description="name the vertebrae, by the slice and by a context about the spine")


class AnchorBasedNetwork(_SliceNetwork):
    """Every pixel carries anchor boxes (P20)."""

    kind: Literal["anchor_based"]
    scales_mm: tuple[Positive, ...] = Field((17.0, 23.0, 28.0, 35.0), description="square roots of the boxes' areas")
    ratios: tuple[Positive, ...] = Field((0.8, 1.1, 1.3, 2.0), description="width over height of the boxes")
    positive_iou: Probability = Field(0.5, description="boxes that overlap a vertebra's box by more are positive")
    best_anchor: bool = Field(True, description="a vertebra that no box reaches claims the one that overlaps it most")


AnyNetwork = AnchorFreeNetwork | AnchorBasedNetwork
DetectorNetwork = Annotated[AnyNetwork, Field(discriminator="kind")]


class DetectorInput(Section):
    scaling: Literal["window", "min_max", "unit_variance"]
    window_hu: Window


class DetectorLoss(Section):
    smallest_genant: Positive = Field(0.2, description="G is clamped to it in the weight 1/G")
    objectness_weight: Positive = Field(1.0, description="weight of the objectness; 1 as published")
    height_weight: NotNegative = Field(0.0, description="weight of the error of the heights; 0 as published")
    level_weight: NotNegative = Field(
        0.2, description="weight of the levels, where the network names them; 0 names none"
    )


class LevelDecoding(Section):
    """How a column of vertebrae is named: prices in nats of what is not a normal column."""

    temperature: Positive = Field(4.0, description="what the network's evidence is divided by, being correlated")
    missing: NotNegative = Field(3.0, description="price of a vertebra that was not detected between two that were")
    variant: NotNegative = Field(3.0, description="price of a numeric variant: 11 or 13 thoracic, 4 or 6 lumbar")
    unnamed: NotNegative = Field(8.0, description="price of a detection that is no vertebra and gets no name")
    sacrum: NotNegative = Field(4.0, description="price of a detection that is S1, which is not graded")
    pitch_spread: Positive = Field(0.15, description="spread of the logarithm of the distance of neighbours")
    pitch_limit: NotNegative = Field(8.0, description="most that a distance which fits badly may cost")
    near: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.05, description="share of the second likeliest level, of both, from which on a level is in doubt"
    )


class DetectorInference(Section):
    """From network output to vertebrae. Changing it reruns detection and what follows, nothing else."""

    score: Probability = Field(0.7, description="objectness a vertebra needs to be measured")
    low_score: Probability = Field(0.7, description="objectness above which it is still listed as low_score")
    nms: Literal["butterfly", "box"] = Field("butterfly", description="overlap measure of the suppression")
    nms_threshold: Probability = Field(0.1, description="overlap above which the lower score is suppressed")
    average_mm: NotNegative = Field(0.0, description="average candidates whose anchors are this near the winner's")
    partial_margin_mm: float = Field(0.0, description="keypoints nearer to the scan's edge make a vertebra partial")
    levels: LevelDecoding = Field(default_factory=LevelDecoding)


class Straighten(Section):
    """The slice that is cut along a predicted curve."""

    width_mm: Width = Field(96.0, description="anterior-posterior width")
    extend_mm: Reach = Field(0.0, description="how far the slice goes on beyond the predicted limits")


class Detector(Section):
    """Stage 2: keypoints of every vertebra on the straightened slice."""

    input: DetectorInput
    network: DetectorNetwork
    crop_mm: tuple[Positive, Positive] = Field(description="size of a training crop: along the spine, in depth")
    straighten: Straighten = Field(default_factory=Straighten)
    augmentation: SliceAugmentation = Field(default_factory=SliceAugmentation)
    loss: DetectorLoss = Field(default_factory=DetectorLoss)
    training: Training
    inference: DetectorInference = Field(default_factory=DetectorInference)

    @model_validator(mode="after")
    def _heights_need_offsets(self) -> Detector:
        if self.loss.height_weight > 0 and self.network.kind == "anchor_based":
            raise ValueError("loss.height_weight needs an anchor_free network, whose code is in pixels")
        return self


class System(Section):
    """A named method: both stages with all their settings."""

    base: str | None = Field(None, description="the system whose settings hold where this one says nothing")
    localizer: Localizer
    detector: Detector


class Evaluation(Section):
    """How predictions are scored."""

    closeness: Literal["butterfly", "box", "distance"] = Field(
        "butterfly", description="what decides a match: an IoU in the target's plane, or the distance of body centres"
    )
    match_iou: Probability = Field(0.1, description="butterfly, box: smallest IoU of a match")
    match_distance_mm: Positive = Field(20.0, description="distance: largest distance of body centres of a match")
    resamples: Count = Field(1000, description="bootstrap resamples of the patients for the 95 % intervals")
    seed: int = Field(0, description="seed of the resamples")
    experts: bool = Field(False, description="score the experts against each other, as one more row of the tables")


NAME = r"^[A-Za-z0-9._-]+$"
"""What can name a folder in results/."""

EXPERTS = "experts"
"""The name under which the experts, scored against each other, enter the tables."""

SystemName = Annotated[str, Field(pattern=NAME)]


class Transfer(Section):
    """Another cohort, on which the trained systems are scored as they are."""

    cohort: Cohort
    evaluation: Evaluation = Field(default_factory=Evaluation)


class Config(Section):
    """The whole configuration of one run of the workflow."""

    name: Annotated[str, Field(pattern=NAME)] = Field(description="folder of the run in results/")
    cohort: Cohort
    shards: Count = Field(2, description="parts into which the work on single cases is split")
    folds: Folds = Field(default_factory=Folds)
    slices: Slices = Field(default_factory=Slices)
    systems: dict[SystemName, System] = Field(min_length=1, description="the systems to compare, by name")
    ancestors: dict[SystemName, System] = Field({}, description="systems that others are based on, but not compared")
    foreign: dict[SystemName, str] = Field(
        default_factory=dict, description="tables of predictions that other systems made of this cohort, by their name"
    )
    transfer: dict[SystemName, Transfer] = Field(
        default_factory=dict, description="other cohorts, by name, on which the trained systems are scored as they are"
    )
    evaluation: Evaluation = Field(default_factory=Evaluation)

    @model_validator(mode="after")
    def _one_name_each(self) -> Config:
        for name in self.foreign:
            if name in self.systems:
                raise ValueError(f"foreign.{name} is the name of a system too, expected another name")
        if EXPERTS in {*self.systems, *self.foreign}:
            raise ValueError(f"a system is called {EXPERTS}, which names the experts in the tables")
        return self

    @model_validator(mode="after")
    def _enough_cases(self) -> Config:
        if isinstance(self.cohort, PhantomCohort) and self.folds.count > self.cohort.cases:
            raise ValueError(f"folds.k is {self.folds.k}, expected at most the {self.cohort.cases} cases of the cohort")
        return self


class Archive(Section):
    """The whole configuration of workflow/archive.smk: a trained model over many scans. docs/archive.md"""

    scans: str = Field(description="folder of scans, NIfTI or DICOM, or a table of them: docs/cohorts/nifti.md")
    model: str = Field(description="folder of a trained model")
    out: str = Field(description="folder for the results")
    shards: Annotated[int, Field(ge=1, le=100_000)] = Field(
        10, description="parts of the archive, one job each; cannot be changed later"
    )
    pictures: bool = Field(False, description="a folder per scan, with its picture, as vertfrac predict writes it")
    retry: bool = Field(False, description="compute scans that failed again, though nothing changed")

    @model_validator(mode="after")
    def _out_is_elsewhere(self) -> Archive:
        if Path(self.out).absolute().is_relative_to(Path(self.scans).absolute()):
            raise ValueError(f"out is {self.out}, expected a folder outside of scans, {self.scans}")
        return self


S = TypeVar("S", bound=Section)


def parse(section: type[S], value: Any, where: str) -> S:
    """Check plain data against a section; ConfigError names the file or option and the path of the first wrong key."""
    try:
        return section.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        path = _key_path(first["loc"], first["type"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        found = "" if first["type"] in ("missing", "value_error") else f", found {_short(first['input'])}"
        problem = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: {path + ': ' if path else ''}{problem}{found}{more}") from error


def _key_path(location: tuple[int | str, ...], problem: str) -> str:
    """The path of a key as a user writes it: without the kind, which pydantic adds where it chose a class by it."""
    chosen = {("cohort", kind) for kind in _kinds(AnyCohort)} | {("network", kind) for kind in _kinds(AnyNetwork)}
    path = [str(part) for i, part in enumerate(location) if location[i - 1 : i + 1] not in chosen]
    return ".".join([*path, "kind"] if problem.startswith("union_tag") else path)


def _kinds(sections: UnionType) -> set[str]:
    return {get_args(section.model_fields["kind"].annotation)[0] for section in get_args(sections)}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parse_cohort(text: str, where: str) -> AnyCohort:
    """Check a section ``cohort`` of any kind, given as JSON text."""
    return parse_json(_OneCohort, f'{{"cohort": {text}}}', where).cohort


class _OneCohort(Section):
    cohort: Cohort


def parse_json(section: type[S], text: str, where: str) -> S:
    """Check a section given as JSON text."""
    try:
        return parse(section, json.loads(text), where)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid JSON ({error})") from error


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; ConfigError names the file when it is missing or not YAML."""
    import yaml

    try:
        # libyaml, where PyYAML was built with it: unlike PyYAML's own it takes no seconds for a kB of brackets
        value = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}), expected a YAML file") from error
    except Exception as error:  # besides YAMLError what Python says of values, such as dates that do not exist
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if what := _unlike_settings(value):
        raise ConfigError(f"{path}: holds {what}, expected the settings of a run")
    return value


_MOST_LEVELS, _MOST_VALUES = 50, 100_000


def _unlike_settings(value: Any) -> str:
    """What plain data hold that settings do not, else nothing; an alias counts as what it stands for, which may be
    without end.
    """
    level, count = [value], 0
    for _ in range(_MOST_LEVELS):
        if any(isinstance(one, int) and one.bit_length() > 63 for one in level):
            return "an integer of more than 63 bits"
        level = [
            child
            for holder in level
            if isinstance(holder, dict | list)
            for child in (holder.values() if isinstance(holder, dict) else holder)
        ]
        count += len(level)
        if count > _MOST_VALUES:
            return f"more than {_MOST_VALUES} values"
    return f"more than {_MOST_LEVELS} levels" if level else ""


SHIPPED = Path(__file__).parent.parent / "config"
"""The checkout's configurations, whose systems every configuration can name."""


def resolve(raw: Any, folder: Path, where: str) -> Config:
    """Check a raw configuration and complete its systems.

    ``systems`` lists names of files in ``folder/systems``, or of those that come with vertfrac, and systems spelled
    out, {NAME: {...}}, or is a mapping of the latter. A system with a ``base`` states only what differs from it.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected a mapping of keys, found {type(raw).__name__}")
    listed = raw.get("systems")
    spelled: dict[str, Any] = dict(listed) if isinstance(listed, dict) else {}
    names = list(spelled)
    ancestors = raw.get("ancestors")  # of a configuration that was written with its defaults
    spelled |= ancestors if isinstance(ancestors, dict) else {}
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, dict):
            spelled.update(entry)
            names += entry
        else:
            names.append(str(entry))
    if len(set(names)) < len(names):
        raise ConfigError(f"{where}: systems: {max(names, key=names.count)!r} is listed twice, expected each once")
    if not isinstance(listed, dict | list):
        return parse(Config, raw, where)
    complete: dict[str, Any] = {}
    files = {path.stem: path for place in (SHIPPED, folder) for path in sorted((place / "systems").glob("*.yaml"))}

    def completed(name: str, asking: tuple[str, ...]) -> Any:
        if name in asking:
            raise ConfigError(f"{where}: systems: {' -> '.join([*asking, name])} is based on itself")
        if name not in complete:
            if name in spelled:
                value, origin = spelled[name], f"{where}: systems.{name}"
            elif name in files:
                value, origin = read_yaml(files[name]), str(files[name])
            else:
                known = ", ".join(sorted({*spelled, *files} - {name}))
                raise ConfigError(f"{where}: systems: unknown system {name!r}, expected one of {known}")
            base = value.get("base") if isinstance(value, dict) else None
            if base is not None:
                value = _merged(completed(str(base), (*asking, name)), value)
            parse(System, value, origin)
            complete[name] = value
        return complete[name]

    for name in names:
        completed(name, ())
    systems = {name: complete.pop(name) for name in names}
    return parse(Config, {**raw, "systems": systems, "ancestors": complete}, where)


def _merged(base: Any, changes: Any) -> Any:
    """Mappings merged key by key, unless they are of another kind; anything else is replaced."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    if changes.get("kind", base.get("kind")) != base.get("kind"):
        return changes
    return base | {key: _merged(base.get(key), value) for key, value in changes.items()}


def lineage(config: Config, name: str) -> list[str]:
    """A system, the one it is based on, and so on."""
    systems = config.ancestors | config.systems
    names = [name]
    while (base := systems[names[-1]].base) is not None:
        names.append(base)
    return names


def owner(config: Config, name: str, settings: Callable[[System], str]) -> str:
    """The earliest in a system's lineage from which on ``settings`` stay equal: under its name their result is kept."""
    systems = config.ancestors | config.systems
    names = lineage(config, name)
    while len(names) > 1 and settings(systems[names[0]]) == settings(systems[names[1]]):
        names.pop(0)
    return names[0]


def changes(config: Config, name: str) -> dict[str, tuple[Any, Any]]:
    """What a system has different from its base: path of the key -> (value of the base, its own)."""
    systems = config.ancestors | config.systems
    base = systems[name].base
    if base is None:
        return {}
    before, after = (_flat(systems[other].model_dump(mode="json", exclude={"base"})) for other in (base, name))
    keys = [*before, *(key for key in after if key not in before)]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, part in value.items() for k, v in _flat(part, f"{path}.{key}" if path else key).items()}


def canonical(section: BaseModel) -> str:
    """The one textual form of a section: JSON with sorted keys, defaults written out."""
    return json.dumps(section.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
