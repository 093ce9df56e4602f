"""The acquisitions of a run: which are used, and why the others are not."""
