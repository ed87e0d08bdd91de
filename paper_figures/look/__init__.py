"""One look for all figures, and what several of them share.

style            colours, bands of confidence, files with the same bytes on every run
panels           titles, layer axes, legends
rows             dots with intervals in rows, names beside points
training_panels  cosines in networks that are trained
comparisons      claims that one rule or variant is better than another
blockwise        names of variants in the results of blockwise training
feedback         names of settings in the results on feedback in hierarchies
learners         how rules learn, in the results on representations of hierarchies
"""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
