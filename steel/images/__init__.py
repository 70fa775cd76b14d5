"""Pixels of image files: finding, decoding, sizes, and pictures of masks."""
