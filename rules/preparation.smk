# From imagery and a parcel register to the Pixel-Set dataset.

from pipeline.workflow.acquisition_table import read_used
from pipeline.workflow.inputs import watched

# Acquisitions that the index found and uses: {id: row}.
used = lambda wildcards: read_used(Path(checkpoints.index.get().output.acquisitions))
# The one that a job extracts.
extracted = lambda wildcards: used(wildcards)[wildcards.acquisition]
# Their tiles.
tiles = lambda wildcards: sorted({row.tile for row in used(wildcards).values()})

if settings.simulate:

    rule simulate:
        message:
            "Write the simulated raw scene: products and register."
        output:
            imagery=directory(settings.imagery.path),
            register=settings.parcels.path,
        params:
            settings=settings_of("simulate"),
            record=paths.record("simulate"),
        resources:
            mem_mb=2000,
        log:
            paths.log("simulate"),
        benchmark:
            paths.benchmark("simulate")
        conda:
            ENVIRONMENT
        shell:
            "python -P -m demo --settings {params.settings:q} --record {params.record:q}"
            " --imagery {output.imagery:q}"
            " --register {output.register:q} --log {log:q}"


# The files that index and clean read. A simulated scene is watched as the output of its rule.
imagery = [] if settings.simulate else watched(settings.imagery.path)
masks = watched(settings.clouds.files) if settings.clouds.files else []
register = [settings.parcels.path, *settings.parcels.tables.values()]


checkpoint index:
    message:
        "List the acquisitions of {params.imagery} and say which are used."
    input:
        imagery=settings.imagery.path if settings.simulate else without_braces(imagery),
        masks=without_braces(masks),
        # Whose bounds a STAC source is searched for.
        register=without_braces(register[:1] if settings.imagery.is_stac else []),
    output:
        acquisitions=paths.acquisitions,
        grids=paths.grids,
    params:
        imagery=verbatim(settings.imagery.path),
        unwatched=verbatim(states_of_others([*imagery, *masks])),
        stac=verbatim(
            ["--items", paths.items, "--register", settings.parcels.path]
            if settings.imagery.is_stac
            else []
        ),
        settings=settings_of("index"),
        record=paths.record("index"),
    threads: 4
    resources:
        mem_mb=1000,
    log:
        paths.log("index"),
    benchmark:
        paths.benchmark("index")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise index --settings {params.settings:q} --record {params.record:q}"
        " --imagery {params.imagery:q}"
        " --acquisitions {output.acquisitions:q} --grids {output.grids:q} {params.stac:q}"
        " --threads {threads} --log {log:q}"


rule clean:
    message:
        "Check and mend the parcels of {params.register}."
    input:
        # Ancient, as every new acquisition rewrites it: what it says counts, see params.
        grids=ancient(paths.grids),
        register=without_braces(register),
    output:
        cleaned=paths.cleaned,
        parcels=directory(paths.parcels),
        classes=paths.classes,
    params:
        settings=settings_of("clean"),
        record=paths.record("clean"),
        register=settings.parcels.path,
        unwatched=verbatim(states_of_others(register)),
        grids=lambda wildcards: paths.grids.read_text() if paths.grids.is_file() else "",
    resources:
        mem_mb=4000,
    log:
        paths.log("clean"),
    benchmark:
        paths.benchmark("clean")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise clean --settings {params.settings:q} --record {params.record:q}"
        " --register {params.register:q}"
        " --grids {input.grids:q} --ledger {output.cleaned:q} --parcels {output.parcels:q}"
        " --classes {output.classes:q} --log {log:q}"


rule rasterise:
    message:
        "Index the pixels of the accepted parcels of tile {wildcards.tile}."
    input:
        parcels=rules.clean.output.parcels,
        grids=ancient(paths.grids),
    output:
        pixel_index=paths.pixel_index("{tile}"),
        label_image=paths.label_image("{tile}"),
    params:
        settings=settings_of("rasterise"),
        record=paths.record("rasterise"),
    resources:
        mem_mb=4000,
    log:
        paths.log("rasterise/{tile}"),
    benchmark:
        paths.benchmark("rasterise/{tile}")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise rasterise --settings {params.settings:q} --record {params.record:q}"
        " --parcels {input.parcels:q}"
        " --grids {input.grids:q} --tile {wildcards.tile:q} --pixel-index {output.pixel_index:q}"
        " --label-image {output.label_image:q} --log {log:q}"


rule extract:
    message:
        "Read the parcels' pixels of {wildcards.acquisition}."
    input:
        product=lambda wildcards: without_braces([extracted(wildcards).product]),
        mask=lambda wildcards: without_braces(filter(None, [extracted(wildcards).mask_file])),
        pixel_index=lambda wildcards: paths.pixel_index(extracted(wildcards).tile),
    output:
        pixels=paths.extracted("{acquisition}"),
        valid=paths.extracted_valid("{acquisition}"),
    params:
        settings=settings_of("extract"),
        record=paths.record("extract"),
        product=lambda wildcards: extracted(wildcards).product,
        unwatched=lambda wildcards: states_of_others(
            filter(None, [extracted(wildcards).product, extracted(wildcards).mask_file])
        ),
    resources:
        mem_mb=2000,
    log:
        paths.log("extract/{acquisition}"),
    benchmark:
        paths.benchmark("extract/{acquisition}")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise extract --settings {params.settings:q} --record {params.record:q}"
        " --product {params.product:q}"
        " --acquisition {wildcards.acquisition:q} --pixel-index {input.pixel_index:q}"
        " --pixels {output.pixels:q} --valid {output.valid:q} --threads {threads} --log {log:q}"


rule assemble:
    message:
        "Join the acquisitions into the Pixel-Set dataset; account for every parcel."
    input:
        pixels=lambda wildcards: [paths.extracted(a) for a in used(wildcards)],
        valid=lambda wildcards: [paths.extracted_valid(a) for a in used(wildcards)],
        acquisitions=ancient(paths.acquisitions),
        pixel_index=lambda wildcards: map(paths.pixel_index, tiles(wildcards)),
        parcels=rules.clean.output.parcels,
        classes=rules.clean.output.classes,
        cleaned=rules.clean.output.cleaned,
    output:
        data=directory(paths.dataset.pixels),
        valid=directory(paths.dataset.valid),
        meta=paths.dataset.assembled,
        observations=paths.dataset.observations,
        ledger=paths.ledger,
    params:
        settings=settings_of("assemble"),
        record=paths.record("assemble"),
        extracted=paths.extractions,
        dataset=paths.dataset.root,
    threads: 2
    resources:
        mem_mb=1000 + settings.assemble.memory_mb,
    log:
        paths.log("assemble"),
    benchmark:
        paths.benchmark("assemble")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise assemble --settings {params.settings:q} --record {params.record:q}"
        " --acquisitions {input.acquisitions:q}"
        " --extracted {params.extracted:q}"
        " --pixel-index {input.pixel_index:q} --parcels {input.parcels:q} --classes {input.classes:q}"
        " --cleaned {input.cleaned:q} --dataset {params.dataset:q} --ledger {output.ledger:q}"
        " --threads {threads} --log {log:q}"


rule features:
    message:
        "Compute the geometric features of the parcels."
    input:
        parcels=rules.clean.output.parcels,
        pixel_index=lambda wildcards: map(paths.pixel_index, tiles(wildcards)),
        dataset=paths.dataset.sizes,
    output:
        features=paths.dataset.features,
        positions=paths.dataset.positions,
    params:
        dataset=paths.dataset.root,
    resources:
        mem_mb=2000,
    log:
        paths.log("features"),
    benchmark:
        paths.benchmark("features")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise features --parcels {input.parcels:q} --pixel-index {input.pixel_index:q}"
        " --dataset {params.dataset:q} --features {output.features:q}"
        " --positions {output.positions:q} --log {log:q}"


ASSEMBLED = rules.assemble.output
DATASET = [rules.assemble.output, rules.features.output]
# The jobs whose settings make the run what it is: those that the report tells of.
JOBS = [
    *(["simulate"] if settings.simulate else []),
    *("index", "clean", "rasterise", "extract", "assemble"),
]
