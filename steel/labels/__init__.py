"""Label formats: what says which pixels are which defect, read into one form, and written."""
