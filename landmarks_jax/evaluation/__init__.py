"""Regression to labelled points, errors, protocols, tables and plots; knows nothing of training."""
