"""Ranks: starting, talking, failing together."""
