"""Does a selection help? The same small model, warmed up on each selection's picks at equal tokens, then measured."""
