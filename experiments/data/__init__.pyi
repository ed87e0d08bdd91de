from .corruptions import CORRUPTIONS as CORRUPTIONS, SEVERITIES as SEVERITIES, corrupt as corrupt
from .grey_images import (
    Array as Array,
    DataError as DataError,
    ImageSource as ImageSource,
    augmented_views as augmented_views,
    default_source as default_source,
    load_images as load_images,
)
from .hierarchies import RHMImages as RHMImages
from .image_sources import (
    HELD_OUT as HELD_OUT,
    Images as Images,
    Labelled as Labelled,
    SourceName as SourceName,
    in_batches as in_batches,
    named_data as named_data,
    rows_of as rows_of,
    source as source,
    with_hybrids as with_hybrids,
)
from .patches import (
    PATCH as PATCH,
    PATCH_WIDTH as PATCH_WIDTH,
    PIXELS as PIXELS,
    compare_batches as compare_batches,
    patch_batches as patch_batches,
    sources as sources,
    standardised as standardised,
)
from .streams import (
    NUM_CHANNELS as NUM_CHANNELS,
    Request as Request,
    Source as Source,
    open_stream as open_stream,
)
