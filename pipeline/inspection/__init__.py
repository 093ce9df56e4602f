"""Show what a run would use, as text and as a picture."""
