"""Population and time: expected updates, learning curves mode by mode, and optimisers.

Symbols used inside functions, beside those of `linlocal`:

    A_l     W_l ... W_1, the map from the input to layer l;  A_0 = I
    K_l     A_l^T A_l, what layer l keeps of the inner products of the input
    E_l     expected error signal of layer l times the input, (width_l, n_0):  dW_l = E_l A_{l-1}^T
    Phi_l   E_l = A_l Phi_l, for losses that see inner products only
    S_+     E[x x'^T] of positive pairs;  D = S_+ - S_-, positive less negative pairs
    a_l, s_l  of one mode: the singular values of W_l and of A_l, so s_l = a_1 ... a_l
    g, h    growth and saturation of a mode: -dLoss/ds = s (g - h s^2)
    mu      weight decay
"""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
