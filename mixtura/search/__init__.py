"""Search a model's own continuations for right answers and near misses, and pair them."""
