"""Photos and faces as uint8 canvases; knows nothing of JAX."""
