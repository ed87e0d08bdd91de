from . import (
    feedback_settings as feedback_settings,
    panels as panels,
    style as style,
    training_panels as training_panels,
)
from .style import PAGE as PAGE, PALETTE as PALETTE
