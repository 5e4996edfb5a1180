"""`mixtura tasks propose`: a task pool drafted from a corpus, for a person to edit."""
