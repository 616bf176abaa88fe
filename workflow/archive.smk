# A trained model over an archive of scans, in shards: docs/archive.md. The number of jobs is the number of shards,
# whatever the number of scans; Snakemake looks at none of them.
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir).parent))  # the checkout's own package

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from vertfrac import config as keys
from vertfrac.cohorts.archive import check_parts
from vertfrac.errors import VertfracError
from vertfrac.provenance import provenance

min_version("9.0")

# By its own name, `parse` would hide one that `include` needs.
try:
    ARCHIVE = keys.parse(keys.Archive, config, "configuration")
    check_parts(Path(ARCHIVE.out), shards=ARCHIVE.shards)
except VertfracError as error:
    raise WorkflowError(str(error)) from None

# Asked here, since Snakemake passes over an input that is missing if the output of its rule is there.
SCANS = Path(ARCHIVE.scans)
if not SCANS.exists():
    raise WorkflowError(f"{SCANS}: not there, expected a folder or a table of scans")

OUT = ARCHIVE.out
SHARDS = [f"{shard:05d}" for shard in range(ARCHIVE.shards)]


wildcard_constraints:
    shard=r"\d+",


include: "rules/device.smk"
include: "rules/archive_common.smk"


rule all:
    default_target: True
    input:
        f"{OUT}/summary.txt",


rule list_scans:
    input:
        table_of_scans,
    output:
        f"{OUT}/list.parquet",
    log:
        f"{OUT}/logs/list.log",
    benchmark:
        f"{OUT}/benchmarks/list.tsv"
    conda:
        "../envs/vertfrac.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        scans=ARCHIVE.scans,
        shards=ARCHIVE.shards,
        code=provenance("cli.archive_list"),
    shell:
        "vertfrac archive list --scans {params.scans:q} --shards {params.shards} --out {output:q} > {log:q} 2>&1"


# What is declared is a note that the shard is up to date. Its results are not, since Snakemake would delete them before
# a job and after one that failed; the command keeps what still holds.
rule measure:
    input:
        rules.list_scans.output,
    output:
        f"{OUT}/shards/{{shard}}.json",
    log:
        f"{OUT}/logs/{{shard}}.log",
    benchmark:
        f"{OUT}/benchmarks/{{shard}}.tsv"
    conda:
        "../envs/vertfrac.yaml"
    threads: 2
    resources:
        gpu=1,
        device=DEVICE,
        mem_mb=8000,
        runtime=1440,
    params:
        model=ARCHIVE.model,
        shards=ARCHIVE.shards,
        out=subpath(input[0], parent=True),
        pictures="--pictures" if ARCHIVE.pictures else "",
        retry="--retry" if ARCHIVE.retry else "",
        decided_by=lambda wildcards: decided_by(),
        code=provenance("cli.archive_measure"),
    shell:
        "vertfrac archive measure --listing {input:q} --shard {wildcards.shard}/{params.shards} --model {params.model:q}"
        " --out {params.out:q} --done {output:q} --device {resources.device} --threads {threads} {params.pictures}"
        " {params.retry} > {log:q} 2>&1"


rule summary:
    input:
        listing=rules.list_scans.output,
        shards=expand(rules.measure.output, shard=SHARDS),
    output:
        text=f"{OUT}/summary.txt",
        table=f"{OUT}/summary.parquet",
    log:
        f"{OUT}/logs/summary.log",
    benchmark:
        f"{OUT}/benchmarks/summary.tsv"
    conda:
        "../envs/vertfrac.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        out=subpath(output.text, parent=True),
        code=provenance("cli.archive_summary"),
    shell:
        "vertfrac archive summary --listing {input.listing:q} --out {params.out:q} > {log:q} 2>&1"


onsuccess:
    if (summary := Path(OUT) / "summary.txt").is_file():
        print(summary.read_text(encoding="utf-8"), end="")
