from .batch import Pairs as Pairs
from .contrasts import Contrasts as Contrasts
from .direction import Direction as Direction
from .groups import Groups as Groups
from .table import Table as Table
