"""Measurements of a trained run."""
