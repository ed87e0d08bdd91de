from . import (
    alignment as alignment,
    explore as explore,
    feedback as feedback,
    hierarchy as hierarchy,
    local_losses as local_losses,
    probing as probing,
    results as results,
    training as training,
    watching as watching,
)
from .alignment import (
    AlignmentRecorder as AlignmentRecorder,
    align as align,
    log_spaced as log_spaced,
)
from .block import blocks as blocks
from .probing import (
    Monitor as Monitor,
    linear_probe as linear_probe,
    probe_blocks as probe_blocks,
)
from .results import Provenance as Provenance, ResultError as ResultError
from .training import (
    CheckpointError as CheckpointError,
    Checkpoints as Checkpoints,
    GlobalTrainer as GlobalTrainer,
    LocalTrainer as LocalTrainer,
    SeededLoader as SeededLoader,
)
from .watching import (
    LocalityError as LocalityError,
    audit_locality as audit_locality,
    masked_gradients as masked_gradients,
)
