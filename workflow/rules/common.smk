# What the rules share: paths, the sections of the configuration that each stage depends on, command-line options.

import json
import re
from functools import cache

from vertfrac.cohorts.lungcancer500_json import annotation_files
from vertfrac.cohorts.series_index import tree_fingerprint
from vertfrac.config import EXPERTS, changes

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

# Training jobs share the machine's cores.
TRAINING_THREADS = max(1, min(8, workflow.cores // len(FOLDS))) if workflow.cores else 1


def cohort_settings(wildcards):
    """The settings of the cohort that a job works on: the run's own, or the one that it is transferred to."""
    if "cohort" in wildcards.keys():
        return CONFIG.transfer[wildcards.cohort].cohort
    return CONFIG.cohort


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
        chosen = scans_of(cohort)[int(wildcards.shard) :: CONFIG.shards]
        # one that does not exist is not asked for, since its case fails alone, with a reason
        return sorted(
            {str(path) for scan in chosen for path in scan.files if path.exists()}
        )

    return files


@cache
def scans_of(cohort):
    """All scans of a cohort, listed once for all shards."""
    try:
        return list_scans(cohort.kind, cohort.model_dump(exclude={"kind"}))
    except VertfracError as error:
        raise WorkflowError(str(error)) from None


def annotations_of_shard(folder, shard):
    """The JSON files of a shard of a lungcancer500 cohort, whose images are known only once they are indexed."""
    try:
        return [
            str(path) for path in annotation_files(Path(folder))[shard :: CONFIG.shards]
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
    """Which cases of the source a shard takes: every phantom that was made for it, or every n-th of a user's."""
    whole = cohort_settings(wildcards).kind == "phantom"
    return "0/1" if whole else f"{wildcards.shard}/{CONFIG.shards}"


def ingest_code(settings):
    """Hash of what ingests a cohort: the common code and the adapter of its kind."""
    return lambda wildcards: code_hash(
        "cohorts.ingest", f"cohorts.{settings(wildcards).kind}"
    )


def localizer(wildcards):
    return SYSTEMS[wildcards.system].localizer


def detector(wildcards):
    return SYSTEMS[wildcards.system].detector


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
    + canonical(system.detector.straighten),
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


# The experts' row is one more input of the summary, and changes nothing in how the others are scored.
SCORING = canonical(CONFIG.evaluation.model_copy(update={"experts": False}))


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
