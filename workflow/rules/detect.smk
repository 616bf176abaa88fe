# Stage 2 per fold: training on cached slices, and detection on the slices of the held-out cases.


rule train_detector:
    input:
        slices=expand(rules.slices.output, shard=SHARDS),
        folds=rules.folds.output,
    output:
        f"{RUN}/training/{{system}}/r{{repeat}}f{{fold}}/detector.safetensors",
    log:
        f"{RUN}/logs/train_detector/{{system}}-r{{repeat}}f{{fold}}.log",
    benchmark:
        f"{RUN}/benchmarks/train_detector/{{system}}-r{{repeat}}f{{fold}}.tsv"
    priority: 20
    conda:
        "../../envs/vertfrac.yaml"
    threads: TRAINING_THREADS
    resources:
        gpu=1,
        device=DEVICE,
        mem_mb=scaled(8000, 6),
        runtime=scaled(1440),
    params:
        slices=as_options("slices"),
        settings=lambda wildcards: training_settings(detector(wildcards)),
        spacing=CONFIG.slices.spacing_mm,
        work=subpath(output[0], parent=True),
        code=provenance("cli.train_detector"),
    shell:
        "vertfrac train-detector {params.slices} --folds {input.folds} --repeat {wildcards.repeat} --fold {wildcards.fold}"
        " --settings {params.settings:q} --spacing {params.spacing} --work {params.work}/detector"
        " --threads {threads} --device {resources.device} --out {output} > {log} 2>&1"


rule straighten:
    input:
        shards=expand(COHORT, shard=SHARDS),
        cases=rules.merge.output.cases,
        curves=kept("curves", rules.curves.output.curves),
    output:
        f"{RUN}/held_out/{{system}}/r{{repeat}}f{{fold}}.safetensors",
    log:
        f"{RUN}/logs/straighten/{{system}}-r{{repeat}}f{{fold}}.log",
    benchmark:
        f"{RUN}/benchmarks/straighten/{{system}}-r{{repeat}}f{{fold}}.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60, 0.01),
    params:
        spacing=CONFIG.slices.spacing_mm,
        width=lambda wildcards: detector(wildcards).straighten.width_mm,
        beyond=lambda wildcards: detector(wildcards).straighten.extend_mm,
        context=lambda wildcards: (
            "--context" if names_levels(SYSTEMS[wildcards.system]) else ""
        ),
        code=provenance("cli.straighten"),
    shell:
        "vertfrac straighten --cases {input.cases} --curves {input.curves} --spacing {params.spacing}"
        " --width {params.width} --extend {params.beyond} {params.context} --out {output} > {log} 2>&1"


rule detect:
    input:
        slices=kept("slices", rules.straighten.output[0]),
        weights=kept("detector", rules.train_detector.output[0]),
    output:
        f"{RUN}/detections/{{system}}/r{{repeat}}f{{fold}}.parquet",
    log:
        f"{RUN}/logs/detect/{{system}}-r{{repeat}}f{{fold}}.log",
    benchmark:
        f"{RUN}/benchmarks/detect/{{system}}-r{{repeat}}f{{fold}}.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    threads: TRAINING_THREADS
    resources:
        gpu=1,
        device=DEVICE,
        mem_mb=scaled(4000, 4),
        runtime=scaled(60, 0.05),
    params:
        settings=lambda wildcards: training_settings(detector(wildcards)),
        inference=lambda wildcards: canonical(detector(wildcards).inference),
        spacing=CONFIG.slices.spacing_mm,
        code=provenance("cli.detect"),
    shell:
        "vertfrac detect --slices {input.slices} --weights {input.weights} --settings {params.settings:q}"
        " --inference {params.inference:q} --spacing {params.spacing} --system {wildcards.system}"
        " --repeat {wildcards.repeat} --fold {wildcards.fold} --threads {threads} --device {resources.device}"
        " --out {output} > {log} 2>&1"
