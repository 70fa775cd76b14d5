"""Images without labels for a second round of training: `python -m data_prep.pseudo_labels --help`."""
