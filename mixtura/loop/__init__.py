"""Rounds of mining: try, pair, mix, train, measure on rows and tools set aside; until it stops paying."""
