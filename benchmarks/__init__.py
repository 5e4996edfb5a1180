"""Speed, memory and exactness, with peers beside them. What was measured is in LOG.md."""
