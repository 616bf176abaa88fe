# Metrics per system and repeat, the summary over all, the figures, and the model folders.


rule evaluate:
    input:
        annotations=rules.merge.output.annotations,
        landmarks=rules.merge.output.landmarks,
        folds=rules.folds.output,
        predictions=per_fold(rules.detect.output[0]),
        curves=kept("curves", rules.curves.output.curves, fold=FOLDS),
        statuses=kept("curves", rules.curves.output.statuses, fold=FOLDS),
    output:
        matches=f"{RUN}/metrics/{{system}}/r{{repeat}}/matches.parquet",
        curve_errors=f"{RUN}/metrics/{{system}}/r{{repeat}}/curve_errors.parquet",
        metrics=f"{RUN}/metrics/{{system}}/r{{repeat}}/metrics.parquet",
    log:
        f"{RUN}/logs/evaluate/{{system}}-r{{repeat}}.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate/{{system}}-r{{repeat}}.tsv"
    wildcard_constraints:
        system=one_of(CONFIG.systems),
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(2000, 10),
        runtime=scaled(60),
    params:
        predictions=as_options("predictions"),
        curves=as_options("curves"),
        statuses=as_options("statuses"),
        settings=matching(CONFIG.evaluation),
        out=subpath(output.metrics, parent=True),
        code=provenance("cli.evaluate"),
    shell:
        "vertfrac evaluate --annotations {input.annotations} --landmarks {input.landmarks} --folds {input.folds}"
        " {params.predictions} {params.curves} {params.statuses} --settings {params.settings:q} --system {wildcards.system} --repeat {wildcards.repeat}"
        " --out {params.out} > {log} 2>&1"


rule evaluate_foreign:
    input:
        annotations=rules.merge.output.annotations,
        landmarks=rules.merge.output.landmarks,
        cases=rules.merge.output.cases,
        predictions=lambda wildcards: CONFIG.foreign[wildcards.system],
    output:
        matches=f"{RUN}/metrics/{{system}}/r0/matches.parquet",
        curve_errors=f"{RUN}/metrics/{{system}}/r0/curve_errors.parquet",
        metrics=f"{RUN}/metrics/{{system}}/r0/metrics.parquet",
    log:
        f"{RUN}/logs/evaluate_foreign/{{system}}.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate_foreign/{{system}}.tsv"
    wildcard_constraints:
        system=one_of(CONFIG.foreign),
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(2000, 10),
        runtime=scaled(60),
    params:
        settings=matching(CONFIG.evaluation),
        out=subpath(output.metrics, parent=True),
        code=provenance("cli.evaluate"),
    shell:
        "vertfrac evaluate --annotations {input.annotations} --landmarks {input.landmarks} --cases {input.cases}"
        " --predictions {input.predictions:q} --settings {params.settings:q} --system {wildcards.system} --out {params.out} > {log} 2>&1"


rule experts:
    input:
        annotations=rules.merge.output.annotations,
        cases=rules.merge.output.cases,
    output:
        matches=f"{RUN}/metrics/{EXPERTS}/r0/matches.parquet",
        curve_errors=f"{RUN}/metrics/{EXPERTS}/r0/curve_errors.parquet",
        metrics=f"{RUN}/metrics/{EXPERTS}/r0/metrics.parquet",
        cases=f"{RUN}/metrics/{EXPERTS}/r0/cases.parquet",
    log:
        f"{RUN}/logs/experts.log",
    benchmark:
        f"{RUN}/benchmarks/experts.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(2000, 10),
        runtime=scaled(60),
    params:
        settings=matching(CONFIG.evaluation),
        out=subpath(output.metrics, parent=True),
        code=provenance("cli.experts"),
    shell:
        "vertfrac experts {input.annotations} --cases {input.cases} --settings {params.settings:q} --out {params.out}"
        " > {log} 2>&1"


rule summary:
    input:
        matches=scored("matches"),
        curve_errors=scored("curve_errors"),
        cases=rules.merge.output.cases,
    output:
        parquet=f"{RUN}/summary/summary.parquet",
        csv=f"{RUN}/summary/summary.csv",
        markdown=report(
            f"{RUN}/summary/summary.md",
            caption="../report/summary.rst",
            category="Summary",
            labels={"shows": "summary"},
        ),
        tables=expand(
            f"{RUN}/summary/table-{{table}}.{{form}}",
            table=["1", "2", "3", "agreement", "grades", "levels", "ablation"],
            form=["csv", "parquet"],
        ),
    log:
        f"{RUN}/logs/summary.log",
    benchmark:
        f"{RUN}/benchmarks/summary.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(2000, 10),
        runtime=scaled(30),
    params:
        matches=as_options("matches"),
        curve_errors=as_options("curve-errors"),
        settings=intervals(CONFIG.evaluation),
        heading=f"{CONFIG.name}: {HELD_OUT}",
        changes=CHANGES,
        out=subpath(output.parquet, parent=True),
        code=provenance("cli.summary"),
    shell:
        "vertfrac summary {params.matches} {params.curve_errors} --cases {input.cases} --settings {params.settings:q}"
        " --heading {params.heading:q} --changes {params.changes:q} --out {params.out} > {log} 2>&1"


rule figures:
    input:
        shards=expand(COHORT, shard=SHARDS),
        matches=expand(
            rules.evaluate.output.matches, repeat=REPEATS, allow_missing=True
        ),
        curve_errors=expand(
            rules.evaluate.output.curve_errors, repeat=REPEATS, allow_missing=True
        ),
        vertebrae=expand(rules.detect.output, repeat=0, fold=FOLDS, allow_missing=True),
        slices=kept("slices", rules.straighten.output[0], repeat=0, fold=FOLDS),
        cases=rules.merge.output.cases,
    output:
        agreement=report(
            f"{RUN}/figures/{{system}}/agreement.png",
            caption="../report/agreement.rst",
            category="Figures",
            labels={"system": "{system}", "shows": "agreement"},
        ),
        errors=report(
            f"{RUN}/figures/{{system}}/errors.png",
            caption="../report/errors.rst",
            category="Figures",
            labels={"system": "{system}", "shows": "errors"},
        ),
        roc=report(
            f"{RUN}/figures/{{system}}/roc.png",
            caption="../report/roc.rst",
            category="Figures",
            labels={"system": "{system}", "shows": "roc"},
        ),
        doubt=report(
            f"{RUN}/figures/{{system}}/doubt.png",
            caption="../report/doubt.rst",
            category="Figures",
            labels={"system": "{system}", "shows": "doubt"},
        ),
        levels=report(
            f"{RUN}/figures/{{system}}/levels.png",
            caption="../report/levels.rst",
            category="Figures",
            labels={"system": "{system}", "shows": "levels"},
        ),
    log:
        f"{RUN}/logs/figures/{{system}}.log",
    benchmark:
        f"{RUN}/benchmarks/figures/{{system}}.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(30),
    params:
        matches=as_options("matches"),
        curve_errors=as_options("curve-errors"),
        vertebrae=as_options("vertebrae"),
        slices=as_options("slices"),
        out=subpath(output.agreement, parent=True),
        code=provenance("cli.figures"),
    shell:
        "vertfrac figures {params.matches} {params.curve_errors} {params.vertebrae} {params.slices}"
        " --cases {input.cases} --out {params.out} > {log} 2>&1"


rule comparison:
    input:
        matches=scored("matches"),
        curve_errors=scored("curve_errors"),
    output:
        agreement=report(
            f"{RUN}/figures/agreement.png",
            caption="../report/agreement.rst",
            category="Comparison",
            labels={"shows": "agreement"},
        ),
        errors=report(
            f"{RUN}/figures/errors.png",
            caption="../report/errors.rst",
            category="Comparison",
            labels={"shows": "errors"},
        ),
        roc=report(
            f"{RUN}/figures/roc.png",
            caption="../report/roc.rst",
            category="Comparison",
            labels={"shows": "roc"},
        ),
        doubt=report(
            f"{RUN}/figures/doubt.png",
            caption="../report/doubt.rst",
            category="Comparison",
            labels={"shows": "doubt"},
        ),
        levels=report(
            f"{RUN}/figures/levels.png",
            caption="../report/levels.rst",
            category="Comparison",
            labels={"shows": "levels"},
        ),
    log:
        f"{RUN}/logs/comparison.log",
    benchmark:
        f"{RUN}/benchmarks/comparison.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(2000, 10),
        runtime=scaled(30),
    params:
        matches=as_options("matches"),
        curve_errors=as_options("curve-errors"),
        out=subpath(output.agreement, parent=True),
        code=provenance("cli.figures"),
    shell:
        "vertfrac figures {params.matches} {params.curve_errors} --out {params.out} > {log} 2>&1"


rule export:
    input:
        localizers=kept(
            "localizer", rules.train_localizer.output[0], repeat=0, fold=FOLDS
        ),
        detectors=kept("detector", rules.train_detector.output[0], repeat=0, fold=FOLDS),
        cases=rules.merge.output.cases,
        summary=rules.summary.output.parquet,
    output:
        directory(f"{RUN}/models/{{system}}"),
    log:
        f"{RUN}/logs/export/{{system}}.log",
    benchmark:
        f"{RUN}/benchmarks/export/{{system}}.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(1000, 2),
        runtime=scaled(10),
    params:
        localizers=as_options("localizers"),
        detectors=as_options("detectors"),
        settings=lambda wildcards: canonical(CONFIG.systems[wildcards.system]),
        spacing=CONFIG.slices.spacing_mm,
        code=provenance("cli.export"),
    shell:
        "vertfrac export --system {wildcards.system} --settings {params.settings:q} --spacing {params.spacing}"
        " {params.localizers} {params.detectors} --cases {input.cases} --summary {input.summary} --out {output}"
        " > {log} 2>&1"
