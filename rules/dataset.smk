# The normalisation, which training needs in addition to the packed pixels.

# An existing dataset may contain its normalisation.
if not (settings.dataset.sources and OWN_NORMALISATION):

    rule normalise:
        message:
            "Compute the means and standard deviations of the dataset."
        input:
            PACKED,
        output:
            paths.dataset.normalisation,
        params:
            settings=settings_of("normalise"),
            record=paths.record("normalise"),
            dataset=paths.dataset.root,
        resources:
            mem_mb=memory("normalise"),
        log:
            paths.log("normalise"),
        benchmark:
            paths.benchmark("normalise")
        conda:
            ENVIRONMENT
        shell:
            "parcelwise normalise --settings {params.settings:q} --record {params.record:q}"
            " --dataset {params.dataset:q}"
            " --normalisation {output:q} --log {log:q}"

    DATASET.append(rules.normalise.output)
    JOBS.append("normalise")


rule dataset:
    message:
        "The Pixel-Set dataset is in {paths.dataset.root}."
    input:
        [] if settings.dataset.sources else TABLES,
        [] if settings.dataset.sources else rules.export.output,
        PACKED,
        DATASET,
        LABELS,
        NAMES,
