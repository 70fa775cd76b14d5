"""An encoder's first weights, published by others or trained here: where they are, what is in them, how they fit."""
