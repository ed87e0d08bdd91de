from .collapse import CollapseError as CollapseError, Limits as Limits
from .linear_classifiers import ridge_scores as ridge_scores
from .monitor import Monitor as Monitor
from .probe import (
    linear_probe as linear_probe,
    probe_blocks as probe_blocks,
    stratified_split as stratified_split,
)
from .representations import (
    effective_rank as effective_rank,
    linear_cka as linear_cka,
    pair_cosines as pair_cosines,
)
from .sensitivity import (
    decodability as decodability,
    synonymic_sensitivity as synonymic_sensitivity,
)
from .while_training import RunningProbe as RunningProbe, knn_accuracy as knn_accuracy
