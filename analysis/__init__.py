"""Instruments for real networks, and the schema of results.

    align, AlignmentRecorder    cosines of local and global gradients, once or during training
    LocalTrainer, GlobalTrainer training block by block, or by backpropagation of the last loss
    linear_probe, probe_blocks  what a linear classifier reads from features
    masked_gradients            backpropagation with its masks averaged or removed
    audit_locality              proof that no local loss reaches another block
    blocks                      the names of a network's blocks

Local losses are in `local_losses`, feedback other than the transposed weights in `feedback`,
networks for the Random Hierarchy Model in `hierarchy`. Names are imported when first used, so
reading a result file never loads torch.
"""

from linlocal.doors import lazily

if __name__ != "linlocal.analysis":
    raise ImportError(
        "The instruments are imported as linlocal.analysis: `from linlocal.analysis import align`. "
        f"The name {__name__!r} would load them a second time."
    )

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
