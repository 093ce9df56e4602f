"""Baselines, with which the scores of the models are compared."""
