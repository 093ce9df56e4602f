"""The report: its inputs, scores, figures, map and templates."""
