"""What a run was made from and with: digests, software, model card, STAC item of the model."""
