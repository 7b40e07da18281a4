"""Embedded faces: sampled, posed in space, drawn with NumPy; `data.synthetic` is the source."""
