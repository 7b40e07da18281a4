"""Finished runs side by side: what compare.py does."""
