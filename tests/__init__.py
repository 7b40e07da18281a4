"""Tests: one file a module, and end to end."""
