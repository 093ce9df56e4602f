"""What the report shows: its inputs, figures, map and templates."""
