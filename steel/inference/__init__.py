"""From images to predictions, and the exported graph."""
