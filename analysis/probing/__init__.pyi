from .linear_classifiers import ridge_scores as ridge_scores
from .probe import (
    linear_probe as linear_probe,
    probe_blocks as probe_blocks,
    stratified_split as stratified_split,
)
from .sensitivity import (
    decodability as decodability,
    synonymic_sensitivity as synonymic_sensitivity,
)
