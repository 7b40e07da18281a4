"""Reads published weights as Flax trees."""
