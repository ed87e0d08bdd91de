"""Local losses of blocks: what a rule becomes on a network.

Every instrument takes a `linlocal.Rule`. A `NetworkRule` around it adds what is specific to a
network (pooling, negatives, rank of B); `CLAPP`, `InfoNCE`, `PhyLL`, `ForwardForward`, `SCFF` and
`Views` make both in one line. A rule builds one `LocalLoss` for each block. Derive from `LocalLoss`
to write a loss of your own.
"""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
