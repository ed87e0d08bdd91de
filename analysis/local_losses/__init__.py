"""Local losses of blocks: what a rule becomes on a network.

Every instrument takes a `linlocal.Rule`. What is specific to a network (pooling, negatives, rank of
B) is said by a `NetworkRule` around it; `CLAPP`, `InfoNCE`, `PhyLL`, `ForwardForward`, `SCFF` and
`Views` make both in one line. A rule builds one `LocalLoss` for each block; a loss of your own
derives from it.
"""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
