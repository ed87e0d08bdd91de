from .batch import Pairs as Pairs
from .contrasts import Contrasts as Contrasts
from .direction import Direction as Direction
