from . import (
    blockwise as blockwise,
    comparisons as comparisons,
    feedback as feedback,
    learners as learners,
    needed as needed,
    panels as panels,
    rows as rows,
    style as style,
    training_panels as training_panels,
)
