"""The public inference API, the packed file, graph export, images and videos, the browser page."""
