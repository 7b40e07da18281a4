"""Synthetic faces: sampled, posed in 3-D, drawn with NumPy; see `sources.synthetic`."""
