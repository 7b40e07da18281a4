"""Configurations: `base` holds every field, the others are short differences from it."""
