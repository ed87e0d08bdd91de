from .batches import (
    EndlessBatches as EndlessBatches,
    FreshBatches as FreshBatches,
    StoredBatches as StoredBatches,
)
from .belief import BeliefPropagation as BeliefPropagation, Beliefs as Beliefs
from .networks import Feedback as Feedback, HierarchicalNet as HierarchicalNet, Sharing as Sharing
