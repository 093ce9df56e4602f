# The dataset of the run is made from an existing Pixel-Set dataset.

from pipeline.workflow.inputs import watched_dataset
from pipeline.workflow.paths import INGESTED, DatasetPaths

source = DatasetPaths(settings.dataset.path)
# Optional files of a dataset.
OPTIONAL = [
    file
    for file in ("features", "positions", "groups", "parcel_dates")
    if getattr(source, file).is_file()
]


rule ingest:
    message:
        "Check the dataset {params.source} and pack its pixels."
    input:
        without_braces([*watched_dataset(settings.dataset.path), *EXISTING_WEIGHTS]),
    output:
        packed=paths.dataset.tile(INGESTED).arrays,
        meta=paths.dataset.metadata,
        normalisation=paths.dataset.normalisation if source.existing_normalisation else [],
        optional=[getattr(paths.dataset, file) for file in OPTIONAL],
        labelled=paths.dataset.labelled,
        names=paths.dataset.names,
        ledger=multiext(str(paths.ledger.with_suffix("")), ".parquet", ".csv"),
        classes=[paths.classes, paths.class_table],
    params:
        source=settings.dataset.path,
        unwatched=verbatim(
            states_of_others([*watched_dataset(settings.dataset.path), *EXISTING_WEIGHTS])
        ),
        settings=settings_of("ingest"),
        record=paths.record("ingest"),
        dataset=paths.dataset.root,
        ledger=paths.ledger,
        classes=paths.classes,
    threads: 2
    resources:
        mem_mb=2000,
    log:
        paths.log("ingest"),
    benchmark:
        paths.benchmark("ingest")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise ingest --settings {params.settings:q} --record {params.record:q}"
        " --source {params.source:q}"
        " --dataset {params.dataset:q} --ledger {params.ledger:q} --classes {params.classes:q}"
        " --threads {threads} --log {log:q}"


PACKED = [rules.ingest.output]
# The rule ingest writes everything that other rules add to a dataset of imagery.
DATASET = []
LABELS, NAMES = rules.ingest.output.labelled, rules.ingest.output.names
# The jobs whose settings are shown in the report.
JOBS = ["ingest"]
