"""Tool calls: read from every common form without evaluating anything, and verified against schemas and golds."""
