"""The pixel-set encoder's hand-written CPU path, its threads and the memory allocator's settings.

All but a few percent of a model's time is spent on pixels, and most of that is memory traffic.
`pixel_mlp` computes the same as the plain layers of `PixelSetEncoder`, which are its test oracle,
with less of it. Nothing is imported here, because `memory_allocator` is used without torch.
"""
