"""Scores a run: regression to labelled points, metrics, protocols, tables and plots."""
