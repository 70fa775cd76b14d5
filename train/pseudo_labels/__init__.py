"""Images without labels for a second round of training: `python -m train.pseudo_labels --help`."""
