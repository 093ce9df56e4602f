# From imagery and a parcel register to the Pixel-Set dataset.

from pipeline.acquisition_table import read_used
from pipeline.inputs import watched

# Acquisitions that the index found and uses: {id: row}.
used = lambda wildcards: read_used(Path(checkpoints.index.get().output.acquisitions))
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
            config=paths.config,
            settings=for_stage(settings, "simulate"),
        resources:
            mem_mb=2000,
        log:
            paths.log("simulate"),
        benchmark:
            paths.benchmark("simulate")
        conda:
            "../environment.yml"
        shell:
            "python -m pipeline simulate --config {params.config} --imagery {output.imagery:q}"
            " --register {output.register:q} --log {log}"


checkpoint index:
    message:
        "List the acquisitions of {params.imagery} and say which are used."
    input:
        imagery=settings.imagery.path if settings.simulate else watched(settings.imagery.path),
        masks=watched(settings.clouds.files) if settings.clouds.files else [],
        # Whose bounds a STAC source is searched for.
        register=settings.parcels.path if settings.imagery.is_stac else [],
    output:
        acquisitions=paths.acquisitions,
        grids=paths.grids,
    params:
        imagery=settings.imagery.path,
        stac=(
            f"--items {paths.items} --register {quote(str(settings.parcels.path))}"
            if settings.imagery.is_stac
            else ""
        ),
        config=paths.config,
        settings=for_stage(settings, "index"),
    threads: 4
    resources:
        mem_mb=1000,
    log:
        paths.log("index"),
    benchmark:
        paths.benchmark("index")
    conda:
        "../environment.yml"
    shell:
        "python -m pipeline index --config {params.config} --imagery {params.imagery:q}"
        " --acquisitions {output.acquisitions} --grids {output.grids} {params.stac}"
        " --threads {threads} --log {log}"


rule clean:
    message:
        "Check and mend the parcels of {input.register}; account for every one."
    input:
        # Ancient, as every new acquisition rewrites it: what it says counts, see params.
        grids=ancient(paths.grids),
        register=settings.parcels.path,
        tables=list(settings.parcels.tables.values()),
    output:
        ledger=paths.ledger,
        parcels=directory(paths.parcels),
        classes=paths.classes,
    params:
        config=paths.config,
        settings=for_stage(settings, "clean"),
        grids=lambda wildcards: paths.grids.read_text() if paths.grids.is_file() else "",
    resources:
        mem_mb=4000,
    log:
        paths.log("clean"),
    benchmark:
        paths.benchmark("clean")
    conda:
        "../environment.yml"
    shell:
        "python -m pipeline clean --config {params.config} --register {input.register:q}"
        " --grids {input.grids} --ledger {output.ledger} --parcels {output.parcels}"
        " --classes {output.classes} --log {log}"


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
        config=paths.config,
        settings=for_stage(settings, "rasterise"),
    resources:
        mem_mb=4000,
    log:
        paths.log("rasterise/{tile}"),
    benchmark:
        paths.benchmark("rasterise/{tile}")
    conda:
        "../environment.yml"
    shell:
        "python -m pipeline rasterise --config {params.config} --parcels {input.parcels}"
        " --grids {input.grids} --tile {wildcards.tile:q} --pixel-index {output.pixel_index:q}"
        " --label-image {output.label_image:q} --log {log}"


rule extract:
    message:
        "Read the parcels' pixels of {wildcards.acquisition}."
    input:
        product=lambda wildcards: used(wildcards)[wildcards.acquisition].product,
        mask=lambda wildcards: used(wildcards)[wildcards.acquisition].mask_file or [],
        pixel_index=lambda wildcards: paths.pixel_index(used(wildcards)[wildcards.acquisition].tile),
    output:
        pixels=paths.extracted("{acquisition}"),
        valid=paths.extracted_valid("{acquisition}"),
    params:
        config=paths.config,
        settings=for_stage(settings, "extract"),
    resources:
        mem_mb=2000,
    log:
        paths.log("extract/{acquisition}"),
    benchmark:
        paths.benchmark("extract/{acquisition}")
    conda:
        "../environment.yml"
    shell:
        "python -m pipeline extract --config {params.config} --product {input.product:q}"
        " --acquisition {wildcards.acquisition} --pixel-index {input.pixel_index:q}"
        " --pixels {output.pixels} --valid {output.valid} --threads {threads} --log {log}"


rule assemble:
    message:
        "Join the acquisitions into the Pixel-Set dataset."
    input:
        pixels=lambda wildcards: [paths.extracted(a) for a in used(wildcards)],
        valid=lambda wildcards: [paths.extracted_valid(a) for a in used(wildcards)],
        acquisitions=ancient(paths.acquisitions),
        pixel_index=lambda wildcards: map(paths.pixel_index, tiles(wildcards)),
        parcels=rules.clean.output.parcels,
        classes=rules.clean.output.classes,
    output:
        data=directory(paths.dataset.pixels),
        valid=directory(paths.dataset.valid),
        meta=paths.dataset.assembled,
        observations=paths.dataset.observations,
    params:
        config=paths.config,
        settings=for_stage(settings, "assemble"),
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
        "../environment.yml"
    shell:
        "python -m pipeline assemble --config {params.config} --acquisitions {input.acquisitions}"
        " --extracted {params.extracted}"
        " --pixel-index {input.pixel_index:q} --parcels {input.parcels} --classes {input.classes}"
        " --dataset {params.dataset} --threads {threads} --log {log}"


rule features:
    message:
        "Compute the geometric features of the parcels."
    input:
        parcels=rules.clean.output.parcels,
        pixel_index=lambda wildcards: map(paths.pixel_index, tiles(wildcards)),
    output:
        features=paths.dataset.features,
        positions=paths.dataset.positions,
    resources:
        mem_mb=2000,
    log:
        paths.log("features"),
    benchmark:
        paths.benchmark("features")
    conda:
        "../environment.yml"
    shell:
        "python -m pipeline features --parcels {input.parcels} --pixel-index {input.pixel_index:q}"
        " --features {output.features} --positions {output.positions} --log {log}"


ASSEMBLED = rules.assemble.output
DATASET = [rules.assemble.output, rules.features.output]
