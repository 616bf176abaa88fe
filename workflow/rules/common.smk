# What the rules share: paths, the sections of the configuration that each stage depends on, command-line options.

import json
import re

from vertfrac.config import EXPERTS, changes

SOURCE = f"{RUN}/source/{{shard}}"
COHORT = f"{RUN}/cohort/{{shard}}"
VOLUMES = f"{RUN}/volumes/{{spacing}}/{{shard}}.safetensors"

SYSTEMS = CONFIG.ancestors | CONFIG.systems

# Training jobs share the machine's cores.
TRAINING_THREADS = max(1, min(8, workflow.cores // len(FOLDS))) if workflow.cores else 1


def source_files(wildcards):
    """What ingestion of a shard reads: the phantoms of the shard, or the tables and scans of the user's folder."""
    if CONFIG.cohort.kind == "phantom":
        return [SOURCE.format(shard=wildcards.shard)]
    return tables_and_scans(
        Path(CONFIG.cohort.folder), int(wildcards.shard), CONFIG.shards
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
