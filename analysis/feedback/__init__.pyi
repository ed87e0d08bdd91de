from .carrying import (
    backpropagation as backpropagation,
    carried as carried,
)
from .direct import (
    DirectFeedback as DirectFeedback,
    projected as projected,
    sent_directly as sent_directly,
    target_error as target_error,
)
from .layers import feedback_parameters as feedback_parameters, is_fed as is_fed
from .transformation import (
    FeedbackAlignment as FeedbackAlignment,
    Method as Method,
    feedback_alignment as feedback_alignment,
)
