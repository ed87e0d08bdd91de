from .files import read as read, usable_folder as usable_folder, write as write
from .provenance import (
    PRESETS as PRESETS,
    Address as Address,
    Provenance as Provenance,
    ResultError as ResultError,
    known_name as known_name,
    of_run as of_run,
)
from .sources import code_version as code_version
from .temporary import temporary_beside as temporary_beside
