"""Names of variants in the results of blockwise training, as its figures select them."""

UNTRAINED = "untrained"
BASE, END_TO_END = "Barlow Twins, simultaneous", "Barlow Twins, end to end"
