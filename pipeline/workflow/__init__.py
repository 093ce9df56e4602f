"""Settings, paths, inputs and progress: shared by the Snakefile and all stages."""
