from .batches import FreshBatches as FreshBatches, StoredBatches as StoredBatches
from .networks import Feedback as Feedback, HierarchicalNet as HierarchicalNet, Sharing as Sharing
