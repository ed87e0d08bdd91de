"""Losses in numpy with their derivatives: functions of scored pairs, of goodness, or of two views.

Three kinds, each a small protocol that a loss of your own may fill:

* `PairLoss`: a convex function phi of the margins m = T u, where u are the scores of the pairs and
  T a fixed contrast matrix. `TypeTwo`, `TypeOne`, `InfoNCE`, `SupervisedInfoNCE` and
  `SpectralScores`.
* `Goodness`: type 2 on u = ||s||^2 - threshold, where s is an activity or a sum of two.
* `ViewLoss`: a function of the activities of two aligned views. `NTXent`, `CosineInfoNCE`,
  `SpectralContrastive`, `VICReg`, `BarlowTwins`, `LPL`, `Whitening`, `LogDet`,
  `SlicedNormality`.

Score functions f are in `linlocal.scores`; the same losses in torch are in `linlocal.autodiff`.
"""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
