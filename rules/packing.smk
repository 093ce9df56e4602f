# From the arrays of the dataset, a parcel a file, to the one file that training and prediction read.

from pipeline.workflow.inputs import is_masked


rule pack:
    message:
        "Put the arrays of the dataset into one file."
    input:
        ASSEMBLED,
    output:
        pixels=paths.dataset.packed_pixels,
        valid=paths.dataset.packed_valid if is_masked(settings) else [],
    params:
        settings=settings_of("pack"),
        record=paths.record("pack"),
        dataset=paths.dataset.root,
    threads: 2
    resources:
        mem_mb=1000 + settings.assemble.memory_mb,
    log:
        paths.log("pack"),
    benchmark:
        paths.benchmark("pack")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise pack --settings {params.settings:q} --record {params.record:q}"
        " --dataset {params.dataset:q}"
        " --threads {threads} --log {log:q}"


# An existing dataset may bring its own.
if not (settings.dataset.path and given.given_normalisation):

    rule normalise:
        message:
            "Compute the means and standard deviations of the dataset."
        input:
            rules.pack.output,
        output:
            paths.dataset.normalisation,
        params:
            settings=settings_of("normalise"),
            record=paths.record("normalise"),
            dataset=paths.dataset.root,
        resources:
            mem_mb=1000,
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


DATASET.append(rules.pack.output)
JOBS.append("pack")


rule dataset:
    message:
        "The Pixel-Set dataset is in {paths.dataset.root}."
    input:
        [] if settings.dataset.path else TABLES,
        DATASET,
        LABELS,
        NAMES,
