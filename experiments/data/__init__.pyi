from .augmentation import simclr as simclr, two_views as two_views
from .contract import Array as Array, Labelled as Labelled
from .corruptions import CORRUPTIONS as CORRUPTIONS, SEVERITIES as SEVERITIES, corrupt as corrupt
from .errors import DataError as DataError
from .folder import ImageFolder as ImageFolder
from .grey_images import augmented_views as augmented_views
from .grey_register import (
    default_source as default_source,
    found_sources as found_sources,
    grey_identities as grey_identities,
    load_images as load_images,
)
from .handwriting import (
    handwriting_identities as handwriting_identities,
    handwritten as handwritten,
)
from .hierarchies import RHMImages as RHMImages
from .image_sources import (
    HELD_OUT as HELD_OUT,
    Images as Images,
    in_batches as in_batches,
    rows_of as rows_of,
    source as source,
    with_hybrids as with_hybrids,
)
from .labelled_register import (
    labelled_identities as labelled_identities,
    named_data as named_data,
)
from .patches import (
    PATCH as PATCH,
    PATCH_WIDTH as PATCH_WIDTH,
    PIXELS as PIXELS,
    patch_batches as patch_batches,
    sources as sources,
    standardised as standardised,
)
from .pixels import (
    LabelledPixels as LabelledPixels,
    Pixels as Pixels,
    evenly_spaced as evenly_spaced,
)
from .shards import TarShards as TarShards
from .streams import (
    NUM_CHANNELS as NUM_CHANNELS,
    Origin as Origin,
    Request as Request,
    open_stream as open_stream,
)
