"""One training run: its plan, its loop, its state, and what it leaves behind."""
