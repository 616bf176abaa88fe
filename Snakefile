# vertfrac: cross-validate systems that grade vertebral compression fractures in CT.
# The configuration is checked before anything else; each stage's rules are in workflow/rules.
import os
import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)  # the checkout's own package, installed or not

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from vertfrac.cohorts.sources import in_shard, list_scans
from vertfrac.config import NiftiCohort, canonical, owner, resolve
from vertfrac.errors import VertfracError
from vertfrac.provenance import provenance
from vertfrac.status import begin

min_version("9.0")


# Snakemake would fill what --configfile leaves out from the default run, a cohort of another kind included.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


try:
    CONFIG = resolve(config, Path(workflow.configfiles[-1]).parent, "configuration")
except VertfracError as error:
    raise WorkflowError(str(error)) from None

# The jobs end when this process does, even if it is killed: nothing is left behind that the next call would run into.
os.environ.update(VERTFRAC_CALLER=str(os.getpid()))


report: "workflow/report/workflow.rst"


RUN = f"results/{CONFIG.name}"
SHARDS = range(CONFIG.shards)
FOLDS = range(CONFIG.folds.count)
REPEATS = range(CONFIG.folds.repeats)
COMPARED = len(CONFIG.systems) + len(CONFIG.foreign) + CONFIG.evaluation.experts


wildcard_constraints:
    shard=r"\d+",
    system=r"[A-Za-z0-9._-]+",
    repeat=r"\d+",
    fold=r"\d+",
    cohort=r"[A-Za-z0-9._-]+",


include: "workflow/rules/device.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/cohort.smk"
include: "workflow/rules/curve.smk"
include: "workflow/rules/detect.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/transfer.smk"


# What `vertfrac status` starts from.
onstart:
    if workflow.is_main_process and not workflow.touch:
        begin(
            Path(RUN),
            CONFIG,
            [
                {
                    "rule": rule.name,
                    "wildcards": job.wildcards_dict,
                    "log": job.log[0],
                    "benchmark": job.benchmark,
                    "planned": workflow.dag.needrun(job),
                }
                for rule in workflow.rules
                for job in workflow.dag.jobs
                if job.rule is rule and job.benchmark
            ],
        )


rule all:
    default_target: True
    input:
        f"{RUN}/summary/summary.md",
        expand(f"{RUN}/models/{{system}}", system=CONFIG.systems),
        expand(f"{RUN}/figures/{{system}}/agreement.png", system=CONFIG.systems),
        [f"{RUN}/figures/agreement.png"] if COMPARED > 1 else [],
        expand(f"{RUN}/transfer/{{cohort}}/summary/summary.md", cohort=CONFIG.transfer),
        expand(
            f"{RUN}/transfer/{{cohort}}/figures/agreement.png", cohort=CONFIG.transfer
        ),
