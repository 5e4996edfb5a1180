"""Sub-tasks of a domain: the task pool file, what its templates read of a row, and a proposal drafted from a corpus."""
