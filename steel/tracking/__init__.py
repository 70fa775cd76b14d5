"""What a run reports while it runs: history, Weights & Biases, TensorBoard."""
