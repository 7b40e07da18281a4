"""Reads published weights into Flax trees."""
