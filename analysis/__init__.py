"""Instruments for real networks, and the schema of results.

    align, AlignmentRecorder    cosines of local and global gradients, once or during training
    LocalTrainer, GlobalTrainer training block by block, or by backpropagation of the last loss
    linear_probe, probe_blocks  what a linear classifier reads from features
    masked_gradients            backpropagation with its masks averaged or removed
    audit_locality              proof that no local loss reaches another block
    blocks                      the names of a network's blocks

Local losses are in `analysis.local_losses`, networks for the Random Hierarchy Model in
`analysis.hierarchy`. Names are imported when first used, so that reading a result file never loads
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.alignment import align
    from analysis.block import blocks
    from analysis.checkpoints import CheckpointError, Checkpoints
    from analysis.loaders import SeededLoader
    from analysis.locality import LocalityError, audit_locality
    from analysis.masking import masked_gradients
    from analysis.probe import linear_probe, probe_blocks
    from analysis.recorder import AlignmentRecorder, log_spaced
    from analysis.results import Provenance, ResultError
    from analysis.trainer import GlobalTrainer, LocalTrainer

_HOME = {
    "AlignmentRecorder": "recorder",
    "CheckpointError": "checkpoints",
    "Checkpoints": "checkpoints",
    "GlobalTrainer": "trainer",
    "LocalTrainer": "trainer",
    "LocalityError": "locality",
    "Provenance": "results",
    "ResultError": "results",
    "SeededLoader": "loaders",
    "align": "alignment",
    "audit_locality": "locality",
    "blocks": "block",
    "linear_probe": "probe",
    "log_spaced": "recorder",
    "masked_gradients": "masking",
    "probe_blocks": "probe",
}

__all__ = [
    "AlignmentRecorder",
    "CheckpointError",
    "Checkpoints",
    "GlobalTrainer",
    "LocalTrainer",
    "LocalityError",
    "Provenance",
    "ResultError",
    "SeededLoader",
    "align",
    "audit_locality",
    "blocks",
    "linear_probe",
    "log_spaced",
    "masked_gradients",
    "probe_blocks",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
