"""Plots in one call, from what the package returns: Datasets, explanations, data of hierarchies.

    cosines      agreement of local and global updates by layer, with intervals over networks
    mismatch     the terms that make local and global updates differ, by layer
    training     what a recorder saw during training, as lines or as a map of layers and steps
    knowledge    what a classifier reads from each layer
    explanation  which condition holds in which layer
    tree         a datum of a Random Hierarchy Model with its latent symbols

Each draws into ``axes``, or into a new pyplot figure, and returns the Axes. Colours and markers
both tell series apart; text and axes keep the colours of your matplotlib style, light or dark.
"""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
