# Stage 1 per fold: training, and the curves of the cases that the fold holds out.


rule train_localizer:
    input:
        volumes=volumes,
        annotations=rules.merge.output.annotations,
        folds=rules.folds.output,
    output:
        f"{RUN}/training/{{system}}/r{{repeat}}f{{fold}}/localizer.safetensors",
    log:
        f"{RUN}/logs/train_localizer/{{system}}-r{{repeat}}f{{fold}}.log",
    benchmark:
        f"{RUN}/benchmarks/train_localizer/{{system}}-r{{repeat}}f{{fold}}.tsv"
    priority: 10
    conda:
        "../../envs/vertfrac.yaml"
    threads: TRAINING_THREADS
    resources:
        gpu=1,
        device=DEVICE,
        mem_mb=scaled(8000, 4),
        runtime=scaled(1440),
    params:
        volumes=as_options("volumes"),
        settings=lambda wildcards: training_settings(localizer(wildcards)),
        work=subpath(output[0], parent=True),
        code=provenance("cli.train_localizer"),
    shell:
        "vertfrac train-localizer {params.volumes} --annotations {input.annotations} --folds {input.folds}"
        " --repeat {wildcards.repeat} --fold {wildcards.fold} --settings {params.settings:q} --work {params.work}/localizer"
        " --threads {threads} --device {resources.device} --out {output} > {log} 2>&1"


rule curves:
    input:
        volumes=volumes,
        folds=rules.folds.output,
        weights=kept("localizer", rules.train_localizer.output[0]),
    output:
        curves=f"{RUN}/curves/{{system}}/r{{repeat}}f{{fold}}.parquet",
        statuses=f"{RUN}/curves/{{system}}/r{{repeat}}f{{fold}}.status.parquet",
    log:
        f"{RUN}/logs/curves/{{system}}-r{{repeat}}f{{fold}}.log",
    benchmark:
        f"{RUN}/benchmarks/curves/{{system}}-r{{repeat}}f{{fold}}.tsv"
    conda:
        "../../envs/vertfrac.yaml"
    threads: TRAINING_THREADS
    resources:
        gpu=1,
        device=DEVICE,
        mem_mb=scaled(8000, 1),
        runtime=scaled(60, 0.05),
    params:
        volumes=as_options("volumes"),
        settings=lambda wildcards: canonical(localizer(wildcards)),
        code=provenance("cli.curves"),
    shell:
        "vertfrac curves {params.volumes} --folds {input.folds} --repeat {wildcards.repeat} --fold {wildcards.fold}"
        " --settings {params.settings:q} --weights {input.weights} --curves {output.curves} --statuses {output.statuses}"
        " --threads {threads} --device {resources.device} > {log} 2>&1"
