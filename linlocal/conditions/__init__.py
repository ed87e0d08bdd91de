"""Why a local update does or does not equal backpropagation, and what would make it equal.

In the dual form, where the projection reads layer l through P_l (the identity, pooling or, under
the metric penalty, P_L V_l) and the top layer through P_L:

    local  = P_l^T P_l Z_l^T  [beta_l beta_l^T * C_l C_l^T / lam_l] Z_{l-1}
    global = G_l       Z_l^T  [beta_L beta_L^T * C_L C_L^T / lam_L] Z_{l-1},
    G_l    = (P_L V_l)^T (P_L V_l).

If  G_l z = a P_l^T P_l z  for the anchors,  C_l C_l^T = e C_L C_L^T  for the contexts, and
lam_l = lam_L e / a,  then both dual problems have the same solution and both updates are equal, for
every score function. Isometry (a = e = 1), conformal maps (a^2 or a in the penalty) and the metric
penalty (P_l = P_L V_l) are its special cases. In a window, all this is asked of the layer e whose
loss trains layer l; both updates have V_{l..e}^T to their left and Z_{l-1} to their right.

Where biases or links bring something to the top layer past layer l, z_L = V_l z_l + r, this needs
r = 0 besides. The metric penalty and matched projections do not: they read layer l through
z_l -> P_L (V_l z_l + r).
"""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
