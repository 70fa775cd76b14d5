"""From shards to batches: which sample when, crops, augmentation, worker processes."""
