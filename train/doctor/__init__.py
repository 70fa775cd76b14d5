"""Look a training job over: `python -m train.doctor`."""
