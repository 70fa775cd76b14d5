"""Counts of pixels, and the scores and intervals that follow from them."""
