from .checkpoints import CheckpointError as CheckpointError, Checkpoints as Checkpoints
from .identity import told as told
from .initialisation import (
    orthogonal_ as orthogonal_,
    scale_branches_ as scale_branches_,
)
from .loaders import Loader as Loader, SeededLoader as SeededLoader
from .loop import Trainer as Trainer
from .memory import peak_bytes as peak_bytes
from .one_by_one import train_one_by_one as train_one_by_one
from .orthogonality import Orthogonality as Orthogonality
from .saved import saved_activations as saved_activations
from .trainers import (
    GlobalTrainer as GlobalTrainer,
    LocalTrainer as LocalTrainer,
    tensorboard_log as tensorboard_log,
)
