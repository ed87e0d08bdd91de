"""Data sets with labels, a file each; see `LabelledSet` for what it defines."""
