# Other cohorts, on which the trained systems are scored as they are: all folds of the first repeat together.

OTHER = f"{RUN}/transfer/{{cohort}}"
OTHER_SOURCE = f"{OTHER}/source/{{shard}}"
OTHER_COHORT = f"{OTHER}/cohort/{{shard}}"
OTHER_INDEX = f"{OTHER}/series.parquet"


use rule phantom as transfer_phantom with:
    output:
        directory(OTHER_SOURCE),
    log:
        f"{RUN}/logs/transfer/{{cohort}}/phantom/{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/transfer/{{cohort}}/phantom/{{shard}}.tsv"
    params:
        cases=lambda wildcards: cohort_settings(wildcards).cases,
        seed=lambda wildcards: cohort_settings(wildcards).seed,
        recipe=phantom_recipe,
        shards=CONFIG.shards,
        code=phantom_code,


use rule index as transfer_index with:
    output:
        OTHER_INDEX,
    log:
        f"{RUN}/logs/transfer/{{cohort}}/index.log",
    benchmark:
        f"{RUN}/benchmarks/transfer/{{cohort}}/index.tsv"


use rule ingest as transfer_ingest with:
    input:
        files=source_files(OTHER_SOURCE),
        index=source_index(OTHER_INDEX),
    output:
        directory(OTHER_COHORT),
    log:
        f"{RUN}/logs/transfer/{{cohort}}/ingest/{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/transfer/{{cohort}}/ingest/{{shard}}.tsv"
    params:
        cohort=lambda wildcards: canonical(source_settings(OTHER_SOURCE)(wildcards)),
        listed=source_listed(OTHER_SOURCE),
        shard=source_shard,
        index=as_option("index"),
        code=ingest_code(source_settings(OTHER_SOURCE)),


use rule merge as transfer_merge with:
    input:
        expand(OTHER_COHORT, shard=SHARDS, allow_missing=True),
    output:
        cases=f"{OTHER}/cohort/cases.parquet",
        annotations=f"{OTHER}/cohort/annotations.parquet",
        landmarks=f"{OTHER}/cohort/landmarks.parquet",
    log:
        f"{RUN}/logs/transfer/{{cohort}}/merge.log",
    benchmark:
        f"{RUN}/benchmarks/transfer/{{cohort}}/merge.tsv"


rule transfer:
    input:
        localizers=rules.export.input.localizers,
        detectors=rules.export.input.detectors,
        cohort=OTHER_COHORT,
    output:
        vertebrae=f"{OTHER}/detections/{{system}}/{{shard}}.parquet",
        curves=f"{OTHER}/curves/{{system}}/{{shard}}.parquet",
        statuses=f"{OTHER}/curves/{{system}}/{{shard}}.status.parquet",
    log:
        f"{RUN}/logs/transfer/{{cohort}}/predict/{{system}}-{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/transfer/{{cohort}}/predict/{{system}}-{{shard}}.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    threads: TRAINING_THREADS
    resources:
        gpu=1,
        device=DEVICE,
        mem_mb=scaled(8000),
        runtime=scaled(60, 0.05),
    params:
        localizers=as_options("localizers"),
        detectors=as_options("detectors"),
        settings=lambda wildcards: canonical(CONFIG.systems[wildcards.system]),
        spacing=CONFIG.slices.spacing_mm,
        code=provenance("cli.transfer"),
    shell:
        "vertfrac transfer --cases {input.cohort}/cases.parquet {params.localizers} {params.detectors}"
        " --settings {params.settings:q} --spacing {params.spacing} --system {wildcards.system} --vertebrae {output.vertebrae}"
        " --curves {output.curves} --statuses {output.statuses} --threads {threads} --device {resources.device}"
        " > {log} 2>&1"


rule transfer_evaluate:
    input:
        annotations=rules.transfer_merge.output.annotations,
        landmarks=rules.transfer_merge.output.landmarks,
        cases=rules.transfer_merge.output.cases,
        predictions=expand(
            rules.transfer.output.vertebrae, shard=SHARDS, allow_missing=True
        ),
        curves=expand(rules.transfer.output.curves, shard=SHARDS, allow_missing=True),
        statuses=expand(
            rules.transfer.output.statuses, shard=SHARDS, allow_missing=True
        ),
    output:
        matches=f"{OTHER}/metrics/{{system}}/matches.parquet",
        curve_errors=f"{OTHER}/metrics/{{system}}/curve_errors.parquet",
        metrics=f"{OTHER}/metrics/{{system}}/metrics.parquet",
    log:
        f"{RUN}/logs/transfer/{{cohort}}/evaluate/{{system}}.log",
    benchmark:
        f"{RUN}/benchmarks/transfer/{{cohort}}/evaluate/{{system}}.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(2000, 10),
        runtime=scaled(60),
    params:
        predictions=as_options("predictions"),
        curves=as_options("curves"),
        statuses=as_options("statuses"),
        settings=lambda wildcards: matching(
            CONFIG.transfer[wildcards.cohort].evaluation
        ),
        out=subpath(output.metrics, parent=True),
        code=provenance("cli.evaluate"),
    shell:
        "vertfrac evaluate --annotations {input.annotations} --landmarks {input.landmarks} --cases {input.cases}"
        " {params.predictions} {params.curves} {params.statuses} --settings {params.settings:q} --system {wildcards.system} --out {params.out} > {log} 2>&1"


use rule summary as transfer_summary with:
    input:
        matches=expand(
            rules.transfer_evaluate.output.matches,
            system=CONFIG.systems,
            allow_missing=True,
        ),
        curve_errors=expand(
            rules.transfer_evaluate.output.curve_errors,
            system=CONFIG.systems,
            allow_missing=True,
        ),
        cases=rules.transfer_merge.output.cases,
    output:
        parquet=f"{OTHER}/summary/summary.parquet",
        csv=f"{OTHER}/summary/summary.csv",
        markdown=report(
            f"{OTHER}/summary/summary.md",
            caption="../report/summary.rst",
            category="Transfer",
            labels={"shows": "summary"},
        ),
        tables=expand(
            f"{OTHER}/summary/table-{{table}}.{{form}}",
            table=["1", "2", "3", "agreement", "grades", "levels", "ablation"],
            form=["csv", "parquet"],
            allow_missing=True,
        ),
    log:
        f"{RUN}/logs/transfer/{{cohort}}/summary.log",
    benchmark:
        f"{RUN}/benchmarks/transfer/{{cohort}}/summary.tsv"
    params:
        matches=as_options("matches"),
        curve_errors=as_options("curve-errors"),
        settings=lambda wildcards: intervals(
            CONFIG.transfer[wildcards.cohort].evaluation
        ),
        heading=lambda wildcards: f"{CONFIG.name}: trained there, scored on {wildcards.cohort} without adaptation",
        changes=CHANGES,
        out=subpath(output.parquet, parent=True),
        code=provenance("cli.summary"),


use rule comparison as transfer_figures with:
    input:
        matches=rules.transfer_summary.input.matches,
        curve_errors=rules.transfer_summary.input.curve_errors,
    output:
        agreement=report(
            f"{OTHER}/figures/agreement.png",
            caption="../report/agreement.rst",
            category="Transfer",
            labels={"shows": "agreement"},
        ),
        errors=report(
            f"{OTHER}/figures/errors.png",
            caption="../report/errors.rst",
            category="Transfer",
            labels={"shows": "errors"},
        ),
        roc=report(
            f"{OTHER}/figures/roc.png",
            caption="../report/roc.rst",
            category="Transfer",
            labels={"shows": "roc"},
        ),
        doubt=report(
            f"{OTHER}/figures/doubt.png",
            caption="../report/doubt.rst",
            category="Transfer",
            labels={"shows": "doubt"},
        ),
        levels=report(
            f"{OTHER}/figures/levels.png",
            caption="../report/levels.rst",
            category="Transfer",
            labels={"shows": "levels"},
        ),
    log:
        f"{RUN}/logs/transfer/{{cohort}}/figures.log",
    benchmark:
        f"{RUN}/benchmarks/transfer/{{cohort}}/figures.tsv"
