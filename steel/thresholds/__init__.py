"""Threshold tuning: the search for a decision, cross-fitted."""
