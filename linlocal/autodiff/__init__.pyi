from .projection import MAX_ENTRIES as MAX_ENTRIES, optimal_projection as optimal_projection
from .updates import global_update as global_update, local_update as local_update, loss as loss
