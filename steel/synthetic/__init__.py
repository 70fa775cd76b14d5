"""Severstal-shaped data, drawn."""
