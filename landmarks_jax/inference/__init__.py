"""Inference: the public API, packed files, exported graphs, images and videos, the browser page."""
