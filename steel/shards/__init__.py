"""The shard folder: its format in both directions, the index, the reader, the cache."""
