"""Settings, artefacts and stages: what joins imagery and models into one workflow."""
