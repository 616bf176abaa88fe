# What the rules share: paths, the sections of the configuration that each stage depends on, command-line options.

import functools
import hashlib
import json
import math
import re
import shlex

from vertfrac.cohorts.lungcancer500_json import annotation_files
from vertfrac.cohorts.series_index import tree_fingerprint
from vertfrac.config import EXPERTS, changes
from vertfrac.files import walk

SOURCE = f"{RUN}/source/{{shard}}"
COHORT = f"{RUN}/cohort/{{shard}}"
INDEX = f"{RUN}/series.parquet"
VOLUMES = f"{RUN}/volumes/{{spacing}}/{{shard}}.safetensors"

HELD_OUT = (
    f"{CONFIG.folds.k}-fold cross-validation, held-out cases only"
    if CONFIG.folds.split == "random"
    else f"published split, {CONFIG.folds.held_out} cases only"
)
SYSTEMS = CONFIG.ancestors | CONFIG.systems

# Training jobs share the cores of one machine; on a cluster each asks for its own.
TRAINING_THREADS = 8 if ON_CLUSTER else max(1, min(8, workflow.cores // len(FOLDS)))


def scaled(base, per_input_mb=0):
    """An amount of memory in MB or of time in minutes: so much, more per MB of input, and more with each attempt."""

    def amount(wildcards, input, attempt):
        size = sum(map(megabytes, map(Path, input))) if per_input_mb else 0
        return math.ceil((base + per_input_mb * size) * attempt)

    return amount


def megabytes(path):
    """Size of a file, or of all files in a folder."""
    size = path.stat().st_size
    for folder, _, files in walk(path) if path.is_dir() else ():
        size += sum(
            file.stat().st_size
            for file in (folder / name for name in files)
            if file.exists()
        )
    return size / 1e6


# What one split depends on: not on how many there are.
USED = {"random": {"split", "k", "seed"}, "published": {"split", "held_out"}}
SPLIT = json.dumps(CONFIG.folds.model_dump(include=USED[CONFIG.folds.split]))


def cohort_settings(wildcards):
    """The settings of the cohort that a job works on: the run's own, or the one that it is transferred to."""
    if "cohort" in wildcards.keys():
        return CONFIG.transfer[wildcards.cohort].cohort
    return CONFIG.cohort


def template_files(like):
    """The files of annotations of patients, around which phantoms are to be grown."""
    path = Path(like)
    if not path.exists():
        raise WorkflowError(
            f"cohort.like: {like} is not there, expected a table or a folder"
        )
    try:
        return list(map(str, annotation_files(path))) if path.is_dir() else [like]
    except VertfracError as error:
        raise WorkflowError(f"cohort.like: {error}") from None


# Looked up now: with an input function that fails, Snakemake takes results that are there for finished.
TEMPLATE_FILES = {
    cohort.like: template_files(cohort.like)
    for cohort in (CONFIG.cohort, *(other.cohort for other in CONFIG.transfer.values()))
    if cohort.kind == "phantom" and cohort.like
}


def phantom_recipe(wildcards):
    """Options of vertfrac phantom for what is not usual."""
    cohort = cohort_settings(wildcards)
    spacing = " ".join(map(str, cohort.like_spacing_mm))
    options = [
        f"--difficulty {cohort.difficulty}" if cohort.difficulty != "usual" else "",
        *(f"--without {ingredient}" for ingredient in cohort.without),
        (
            f"--like {shlex.quote(cohort.like)} --like-spacing {spacing}"
            if cohort.like
            else ""
        ),
    ]
    return " ".join(filter(None, options))


def phantom_code(wildcards):
    grown = ["cohorts.phantom.template.read_templates"]
    return provenance(
        "cohorts.phantom.write_phantoms",
        *(grown if cohort_settings(wildcards).like else []),
    )


def source_settings(source):
    """What ingestion reads: the cohort as configured; of phantoms the shard that was made, a folder like a user's."""

    def settings(wildcards):
        cohort = cohort_settings(wildcards)
        if cohort.kind == "phantom":
            return NiftiCohort(kind="nifti", folder=source.format(**wildcards))
        return cohort

    return settings


def source_files(source):
    """Input function: the files that ingestion of a shard reads."""

    def files(wildcards):
        cohort = cohort_settings(wildcards)
        if cohort.kind == "phantom":
            return [source.format(**wildcards)]
        if cohort.kind == "lungcancer500":
            return annotations_of_shard(cohort.annotations, int(wildcards.shard))
        # one that does not exist is not asked for, since its case fails alone, with a reason
        return sorted(
            {
                str(path)
                for scan in scans_of_shard(cohort, int(wildcards.shard))
                for path in scan.files
                if path.exists()
            }
        )

    return files


def source_listed(source):
    """Digest of what tables of many cases say of those of a shard; a table itself is no input of it."""

    def listed(wildcards):
        cohort = cohort_settings(wildcards)
        if cohort.kind in ("phantom", "lungcancer500"):
            return ""
        scans = scans_of_shard(cohort, int(wildcards.shard))
        text = "\n".join(f"{scan.case} {scan.listed}" for scan in scans)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    return listed


@functools.cache
def scans_of_shard(cohort, shard):
    try:
        return [
            scan
            for scan in scans_of(cohort)
            if in_shard(scan.case, (shard, CONFIG.shards))
        ]
    except VertfracError as error:
        raise WorkflowError(str(error)) from None


@functools.cache
def scans_of(cohort):
    return list_scans(cohort.kind, cohort.model_dump(exclude={"kind"}))


def annotations_of_shard(folder, shard):
    """The JSON files of a shard of a lungcancer500 cohort, whose images are known only once they are indexed."""
    try:
        return [
            str(path)
            for path in annotation_files(Path(folder))
            if in_shard(path.stem, (shard, CONFIG.shards))
        ]
    except VertfracError as error:
        raise WorkflowError(str(error)) from None


def source_index(path):
    """Input function: the index of the DICOM files, for a cohort that is found by it."""
    return lambda wildcards: (
        path.format(**wildcards)
        if cohort_settings(wildcards).kind == "lungcancer500"
        else []
    )


def indexed_tree(wildcards):
    """What the index depends on: the folders of the DICOM files and when they changed."""
    try:
        return tree_fingerprint(Path(cohort_settings(wildcards).images))
    except VertfracError as error:
        raise WorkflowError(str(error)) from None


def as_option(name):
    """The single file of an input as a command-line option, if there is one."""
    return lambda wildcards, input: f"--{name}={input[name]}" if input[name] else ""


def source_shard(wildcards):
    """Which cases of the source a shard takes: every phantom that was made for it, or its part of a user's."""
    whole = cohort_settings(wildcards).kind == "phantom"
    return "0/1" if whole else f"{wildcards.shard}/{CONFIG.shards}"


def ingest_code(settings):
    """What ingests a cohort: the common code and the adapter of its kind."""
    return lambda wildcards: provenance(
        "cli.ingest", f"cohorts.{settings(wildcards).kind}.scans"
    )


def localizer(wildcards):
    return SYSTEMS[wildcards.system].localizer


def detector(wildcards):
    return SYSTEMS[wildcards.system].detector


def names_levels(system):
    """Whether a system names vertebrae, for which slices need their context."""
    network = system.detector.network
    return network.kind == "anchor_free" and network.levels


def slice_landmarks(wildcards, input):
    """Option of vertfrac slices, if any system names vertebrae."""
    return (
        f"--landmarks {input}/landmarks.parquet"
        if any(map(names_levels, CONFIG.systems.values()))
        else ""
    )


def volumes(wildcards):
    """The cached volumes of all shards at the voxel size of a system's stage 1."""
    spacing = "x".join(f"{mm:g}" for mm in localizer(wildcards).input.spacing_mm)
    return expand(VOLUMES, spacing=spacing, shard=SHARDS)


def training_settings(section):
    """What training depends on: a stage's section without what only straightening and inference use."""
    later = [name for name in ("straighten", "inference") if hasattr(section, name)]
    return canonical(
        section.model_copy(
            update={name: type(getattr(section, name))() for name in later}
        )
    )


# What the systems that are based on another one change in it.
CHANGES = json.dumps(
    {
        name: [system.base, changes(CONFIG, name)]
        for name, system in CONFIG.systems.items()
        if system.base
    }
)

# What each result depends on. A system based on another shares with it all results whose settings are equal: they are
# kept under the name of the earliest system in its lineage that has these settings.
DEPENDS_ON = {
    "localizer": lambda system: training_settings(system.localizer),
    "curves": lambda system: canonical(system.localizer),
    "slices": lambda system: canonical(system.localizer)
    + canonical(system.detector.straighten)
    + str(names_levels(system)),
    "detector": lambda system: training_settings(system.detector),
}


def kept(result, path, **wanted):
    """Input function: the files of a result under the name of the system that owns it."""

    def files(wildcards):
        name = owner(CONFIG, wildcards.system, DEPENDS_ON[result])
        return expand(path, **{**dict(wildcards.items()), "system": name, **wanted})

    return files


def as_options(name):
    """The files of an input as a repeated command-line option."""
    return lambda wildcards, input: [
        f"--{name}={path}" for path in input[name.replace("-", "_")]
    ]


def per_fold(path):
    return expand(path, fold=FOLDS, allow_missing=True)


def matching(evaluation):
    """The part of a section evaluation that decides what matches; of the two limits the one that counts."""
    by_distance = evaluation.closeness == "distance"
    limit = "match_distance_mm" if by_distance else "match_iou"
    return json.dumps(evaluation.model_dump(include={"closeness", limit}))


def intervals(evaluation):
    """The part of a section evaluation that the intervals of the summary depend on."""
    return json.dumps(evaluation.model_dump(include={"resamples", "seed"}))


def one_of(names):
    """A wildcard's constraint: exactly one of the names, or nothing if there is none."""
    return "|".join(map(re.escape, names)) or r"(?!)"


def scored(table):
    """A table of scores of all systems and repeats, of the foreign systems and, if wanted, of the experts."""
    single = [*CONFIG.foreign, *([EXPERTS] if CONFIG.evaluation.experts else [])]
    path = f"{RUN}/metrics/{{system}}/r{{repeat}}/{table}.parquet"
    return [
        *expand(path, system=CONFIG.systems, repeat=REPEATS),
        *expand(path, system=single, repeat=0),
    ]
