"""Images without labels and a second training, by one command: `python -m train.second_round --help`."""
