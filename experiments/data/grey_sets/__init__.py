"""Data sets of grey images, a file each; see `GreySet` for what it defines."""
