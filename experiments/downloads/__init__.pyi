from .fetching import fetch as fetch, missing as missing
from .public_sets import PUBLIC as PUBLIC
