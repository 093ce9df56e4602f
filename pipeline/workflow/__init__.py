"""What the Snakefile and all stages share: settings, paths, inputs, progress."""
