"""The stages, a module each."""
