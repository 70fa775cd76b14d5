"""A model behind HTTP: `steel serve`. What a request asks for is made in memory; none of it reaches the disk."""
