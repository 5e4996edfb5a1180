"""How much an answer draws on what the user gave: attention of one layer, and what the answer loses without it.

`conversation` finds the tokens of each turn through any chat template; `mass` sums attention over them without a matrix
of length by length; `watch` reads one layer of any model and stops there; `reader` brings rows through in batches;
`account` turns the masses of an answer into its scores.
"""
