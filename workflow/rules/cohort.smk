# From the source of the cohort to the cached arrays that training reads, sharded over the cases.


# Seconds of work: on a cluster they run where Snakemake does.
localrules:
    merge,
    folds,
    transfer_merge,


rule phantom:
    input:
        like=lambda wildcards: TEMPLATE_FILES.get(cohort_settings(wildcards).like, []),
    output:
        directory(SOURCE),
    log:
        f"{RUN}/logs/phantom/{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/phantom/{{shard}}.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(60),
    params:
        cases=lambda wildcards: cohort_settings(wildcards).cases,
        seed=lambda wildcards: cohort_settings(wildcards).seed,
        recipe=phantom_recipe,
        shards=CONFIG.shards,
        code=phantom_code,
    shell:
        "vertfrac phantom --cases {params.cases} --seed {params.seed} {params.recipe}"
        " --shard {wildcards.shard}/{params.shards} --out {output} > {log} 2>&1"


rule index:
    output:
        INDEX,
    log:
        f"{RUN}/logs/index.log",
    benchmark:
        f"{RUN}/benchmarks/index.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    threads: 8
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(120),
    params:
        images=lambda wildcards: cohort_settings(wildcards).images,
        tree=indexed_tree,
        code=provenance("cli.index"),
    shell:
        "vertfrac index --images {params.images:q} --out {output} --threads {threads} > {log} 2>&1"


rule ingest:
    input:
        files=source_files(SOURCE),
        index=source_index(INDEX),
    output:
        directory(COHORT),
    log:
        f"{RUN}/logs/ingest/{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/ingest/{{shard}}.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(30, 0.02),
    params:
        cohort=lambda wildcards: canonical(source_settings(SOURCE)(wildcards)),
        listed=source_listed(SOURCE),
        shard=source_shard,
        index=as_option("index"),
        code=ingest_code(source_settings(SOURCE)),
    shell:
        "vertfrac ingest --cohort {params.cohort:q} {params.index} --shard {params.shard} --out {output}"
        " > {log} 2>&1"


rule merge:
    input:
        expand(COHORT, shard=SHARDS),
    output:
        cases=f"{RUN}/cohort/cases.parquet",
        annotations=f"{RUN}/cohort/annotations.parquet",
        landmarks=f"{RUN}/cohort/landmarks.parquet",
    log:
        f"{RUN}/logs/merge.log",
    benchmark:
        f"{RUN}/benchmarks/merge.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(10),
    params:
        shards=lambda wildcards, input: [f"--shards={shard}" for shard in input],
        out=subpath(output.cases, parent=True),
        code=provenance("cli.merge"),
    shell:
        "vertfrac merge {params.shards} --out {params.out} > {log} 2>&1"


rule folds:
    input:
        rules.merge.output.cases,
    output:
        f"{RUN}/folds/r{{repeat}}.parquet",
    log:
        f"{RUN}/logs/folds/r{{repeat}}.log",
    benchmark:
        f"{RUN}/benchmarks/folds/r{{repeat}}.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(10),
    params:
        settings=SPLIT,
        code=provenance("cli.folds"),
    shell:
        "vertfrac folds --cases {input} --settings {params.settings:q} --repeat {wildcards.repeat} --out {output}"
        " > {log} 2>&1"


rule resample:
    input:
        COHORT,
    output:
        VOLUMES,
    log:
        f"{RUN}/logs/resample/{{spacing}}-{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/resample/{{spacing}}-{{shard}}.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(4000, 1),
        runtime=scaled(30, 0.01),
    params:
        spacing=lambda wildcards: wildcards.spacing.split("x"),
        code=provenance("cli.resample"),
    shell:
        "vertfrac resample --cases {input}/cases.parquet --spacing {params.spacing} --out {output} > {log} 2>&1"


rule slices:
    input:
        COHORT,
    output:
        f"{RUN}/slices/{{shard}}.safetensors",
    log:
        f"{RUN}/logs/slices/{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/slices/{{shard}}.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(30, 0.01),
    params:
        settings=canonical(CONFIG.slices),
        landmarks=slice_landmarks,
        code=provenance("cli.slices"),
    shell:
        "vertfrac slices --cases {input}/cases.parquet --annotations {input}/annotations.parquet {params.landmarks}"
        " --settings {params.settings:q} --out {output} > {log} 2>&1"
