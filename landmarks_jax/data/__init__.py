"""Photos as uint8 canvases, without JAX."""
