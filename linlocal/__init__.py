"""linlocal: when does learning that is local to each layer do the same as backpropagation?

Symbols used inside functions, as in the papers (layers are numbered 1..L):

    z_l     activity of layer l, (samples, width_l); z_0 is the input
    c_l     context: the reference's activity that an anchor is compared with, detached
    W_l     weight of layer l, (width_l, width_{l-1});  V_l = W_L ... W_{l+1};  G_l = V_l^T V_l
    B_l     projection, (width_l, context width);  u[p] = z_l^T B_l c_l is the score of a pair
    P_l     read-out: what a projection sees of layer l is P_l z_l (pooling, V_l or the identity)
    f       score function, applied to each margin
    T, m    contrasts, (margins, pairs);  m = T u are the margins
    phi     loss as a function of all margins;  lam is the strength of the penalty on B
    alpha   dual variables by pair, B_l = sum_p alpha_p z_l c_l^T;  slopes beta = lam alpha
            = -d phi / d u
    gamma   dual variables by margin, lam gamma = -d phi / d m;  alpha = T^T gamma
    Phi     features: T applied to the outer products z_l c_l^T;  m = Phi vec(B)
    Q       kernel of the margins, Q = Phi Phi^T = T [(Z Z^T) * (C C^T)] T^T;  m = Q gamma
    H       curvature, the Hessian of phi by the margins

Sources: Wu, Delrocq, Gerstner, Bellec 2026 (arXiv 2601.21683); Illing et al. 2021 (2010.08262).
"""

from linlocal.doors import lazily

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
