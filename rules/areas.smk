rule areas:
    message:
        "Estimate the area of every class."
    input:
        predictions=rules.predict.output,
        register=paths.register,
        dataset=[DATASET, LABELS, NAMES],
    output:
        table=paths.areas,
        view=report(paths.areas.with_suffix(".csv"), caption="captions/areas.rst", category=RESULTS),
        account=paths.areas_account,
    params:
        settings=settings_of("areas"),
        record=paths.record("areas"),
        predictions=paths.predictions.with_suffix(".parquet"),
        probabilities=["--probabilities", paths.mean_probabilities] if TRAINED else [],
        areas=paths.areas,
        dataset=paths.dataset.root,
    resources:
        mem_mb=memory("areas", paths.dataset.labels),
    log:
        paths.log("areas"),
    benchmark:
        paths.benchmark("areas")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise areas --settings {params.settings:q} --record {params.record:q}"
        " --predictions {params.predictions:q} {params.probabilities:q} --register {input.register:q}"
        " --dataset {params.dataset:q} --areas {params.areas:q} --log {log:q}"
