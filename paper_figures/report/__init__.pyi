from . import contents as contents, sources as sources
