from . import loggers as loggers, series as series
from .batch import align as align
from .recorder import (
    AlignmentRecorder as AlignmentRecorder,
    Cadence as Cadence,
    log_spaced as log_spaced,
)
from .terms import TERMS as TERMS
