from .checkpoints import CheckpointError as CheckpointError, Checkpoints as Checkpoints
from .identity import told as told
from .initialisation import (
    orthogonal_ as orthogonal_,
    scale_branches_ as scale_branches_,
)
from .loaders import Loader as Loader, SeededLoader as SeededLoader
from .loop import Trainer as Trainer
from .memory import peak_bytes as peak_bytes
from .orthogonality import Orthogonality as Orthogonality
from .trainers import (
    GlobalTrainer as GlobalTrainer,
    LocalTrainer as LocalTrainer,
    tensorboard_log as tensorboard_log,
)
