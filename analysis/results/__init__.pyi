from .files import read as read, usable_folder as usable_folder, write as write
from .provenance import (
    PRESETS as PRESETS,
    Address as Address,
    Provenance as Provenance,
    ResultError as ResultError,
    known_name as known_name,
    of_run as of_run,
)
from .replacing import (
    replacing as replacing,
    sweep as sweep,
    temporary_in as temporary_in,
    why_not_written as why_not_written,
)
from .sources import code_version as code_version
