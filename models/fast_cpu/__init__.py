"""The hand-written CPU path of the pixel-set encoder."""
