"""Linear probe: how well a linear classifier reads the class from frozen features.

The strength of the penalty is chosen on a held-out part of the training data, and the classifier is
then fitted again on all of them. The test data never take part in the choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase

from linlocal import inputs as checks
from linlocal.analysis.block import Block, resolve
from linlocal.analysis.probing.features import pooled
from linlocal.analysis.probing.linear_classifiers import Classifier, logistic, ridge
from linlocal.analysis.watching import one_pass, untouched
from linlocal.vocabulary import described

Kind = Literal["ridge", "logistic"]
# Batches (inputs, labels, ...).
Loader = Iterable[Sequence[Any]]

STRENGTHS = tuple(float(s) for s in 10.0 ** np.arange(-6, 4))


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found, and how.

    Attributes:
        accuracy: the share of test samples that are classified correctly.
        validation_accuracy: the share of held-out training samples that are classified correctly
            at the chosen strength.
        strength: the chosen strength of the penalty.
        num_features: the number of columns of the features.
        validation: the share of each class that was held out to choose the strength.
        strengths: the strengths that there were to choose from.
    """

    accuracy: float
    validation_accuracy: float
    strength: float
    num_features: int
    validation: float
    strengths: tuple[float, ...]


def linear_probe(
    features: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    test_features: ArrayLike | Tensor,
    test_labels: ArrayLike | Tensor,
    *,
    seed: int,
    kind: Kind = "ridge",
    validation: float = 0.2,
    strengths: Iterable[float] = STRENGTHS,
) -> ProbeResult:
    """Test accuracy of ``argmax W x + b``, with the penalty chosen on held-out training data.

    Features are shifted and scaled to mean 0 and variance 1 by the statistics of the samples that
    the classifier is fitted on. "ridge" minimises ``||Y - X W||^2 / n + s ||W||^2`` for one-hot
    targets Y; one eigendecomposition (of X X^T if there are fewer samples than features) gives the
    exact minimum for all strengths s. "logistic" minimises the cross-entropy plus
    ``s ||W||^2 / 2`` by L-BFGS. Everything is computed in float64 on the device of the features.

    Args:
        features: (samples, features).
        labels: (samples,) whole numbers, of at least two classes.
        test_features: (test samples, features).
        test_labels: (test samples,), all of them seen in ``labels``.
        seed: decides which samples are held out.
        kind: the kind of classifier, "ridge" or "logistic".
        validation: the share of each class that is held out to choose the strength.
        strengths: the strengths s to choose from. The one that is most accurate on the held-out
            part is taken, and of equally accurate ones the one with the smallest loss there.

    Raises:
        ValueError: shapes do not fit, features are not finite, labels are no whole numbers or of
            one class, a test label never occurs in training, a strength is not positive, or there
            are too few samples to hold any out.
        TypeError: the strengths are no numbers, or features are complex.
    """
    tests = {"test": (test_features, test_labels)}
    (result,) = _probe(
        features, labels, tests, "", seed, kind, validation, _checked_strengths(strengths)
    )
    return result


def probe_blocks(
    model: nn.Module,
    blocks: Iterable[str] | None,
    train_loader: Loader,
    test_loader: Loader | Mapping[str, Loader],
    *,
    seed: int,
    pooling: int = 1,
    kind: Kind = "ridge",
    validation: float = 0.2,
    strengths: Iterable[float] = STRENGTHS,
) -> xr.Dataset:
    """`linear_probe` of the output of each block, and of all outputs side by side.

    The model runs in eval mode and without gradients, once over each loader; its modes are
    restored. Maps are averaged to ``pooling`` x ``pooling`` values per channel, sequences over the
    tokens, whatever their layout is (see `linlocal.analysis.layout`). Inputs are given in the
    precision of the model's weights, if these have one precision.

    Args:
        model: the network; it takes the inputs of the loaders and may return anything.
        blocks: the names of its blocks, as for `linlocal.analysis.blocks`.
        train_loader: the batches (inputs, labels, ...) to fit on; what follows the labels is not
            read. Any iterable, also a generator.
        test_loader: the batches to test on, or several such loaders by name, for which the
            classifiers are fitted once.
        seed: decides which training samples are held out, the same ones for every block.
        pooling: the side of the pooled maps; smaller maps stay as they are.
        kind: the kind of classifier, as for `linear_probe`.
        validation: the share of each class that is held out, as for `linear_probe`.
        strengths: the strengths to choose from, as for `linear_probe`.

    Returns:
        accuracy, validation_accuracy, strength and num_features over the dimension ``block``:
        "1".."L" and "all", with the coordinate ``name``. For several test loaders, accuracy has the
        dimension ``part`` before it. The coordinate ``strengths`` holds what there was to choose
        from; attributes hold ``kind``, ``pooling``, ``seed`` and ``validation``.

    Raises:
        ValueError: as `linlocal.analysis.blocks` and `linear_probe`, a loader gave no batch, labels
            do not fit their inputs, or a block returns something other than one tensor (samples,
            ...) with 2 to 4 axes.
        TypeError: a batch is not (inputs, labels, ...), or inputs are no tensor.
        RuntimeError: the blocks do not run once each, in this order.
    """
    chosen = _checked_strengths(strengths)
    pooling, seed = checks.whole(pooling, "pooling", 1), checks.whole(seed, "seed", 0)
    loaders: dict[str, Loader] = {"test": test_loader}
    if isinstance(test_loader, Mapping):
        loaders = dict(test_loader)
    if not loaders:
        raise ValueError("There is nothing to test on: test_loader names no loader.")
    watched = resolve(model, blocks, strict=False)
    with torch.inference_mode(False):
        features, labels = _block_features(model, watched, train_loader, pooling, "training")
        tests = {n: _block_features(model, watched, l, pooling, n) for n, l in loaders.items()}
    names = [block.name for block in watched]
    results = []
    for l, name in enumerate([*names, "all"]):

        def take(parts: Sequence[Tensor], l: int = l) -> Tensor:
            return parts[l] if l < len(parts) else torch.cat([*parts], 1)

        here = {n: (take(parts), known) for n, (parts, known) in tests.items()}
        where = f" of block {name!r}" if l < len(names) else " of all blocks"
        results.append(_probe(take(features), labels, here, where, seed, kind, validation, chosen))
    accuracy = np.array([[result.accuracy for result in row] for row in results]).T
    columns = {
        key: ("block", [getattr(row[0], key) for row in results])
        for key in ("validation_accuracy", "strength", "num_features")
    }
    found = described(
        xr.Dataset(
            {"accuracy": (("part", "block"), accuracy), **columns},
            {
                "part": [*loaders],
                "block": [*map(str, range(1, len(watched) + 1)), "all"],
                "name": ("block", [*names, "all"]),
                "strengths": [*chosen],
            },
            {"kind": kind, "pooling": pooling, "seed": seed, "validation": validation},
        ),
        "probe",
    )
    return found if isinstance(test_loader, Mapping) else found.isel(part=0, drop=True)


@torch.inference_mode(False)  # whose tensors the logistic fit cannot use
def _probe(
    features: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    tests: Mapping[str, tuple[ArrayLike | Tensor, ArrayLike | Tensor]],
    where: str,
    seed: int,
    kind: Kind,
    validation: float,
    strengths: tuple[float, ...],
) -> list[ProbeResult]:
    """One fit, and its result on each of the tests."""
    validation, seed = checks.real(validation, "validation"), checks.whole(seed, "seed", 0)
    if not 0 < validation < 1:
        raise ValueError(f"validation must lie between 0 and 1, got {validation}.")
    if kind not in ("ridge", "logistic"):
        raise ValueError(f'kind must be "ridge" or "logistic", got {kind!r}.')
    x, y = _checked(features, labels, "training", where)
    judged = {name: _checked(*test, name, where) for name, test in tests.items()}
    classes, y = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"All {len(y)} training labels are {classes[0]}: a classifier needs at least two "
            "classes. Are the data sorted by class, and only the first of them read?"
        )
    for name, (test_x, test_y) in judged.items():
        if test_x.shape[1] != x.shape[1]:
            raise ValueError(
                f"{x.shape[1]} features in training, but {test_x.shape[1]} in the {name}: take "
                "both from the same block."
            )
        if unseen := sorted({*test_y.tolist()} - {*classes.tolist()}):
            raise ValueError(
                f"{name.capitalize()} labels {unseen[:10]} never occur in training "
                f"({len(classes)} classes do): no classifier could predict them. Check the split, "
                "or leave these samples out."
            )
    rest, held_out = stratified_split(y, validation, seed)
    judge = _classifier(kind, x[rest], y[rest])(x[held_out])
    found = []
    # In this order each logistic fit starts from the one before.
    for strength in sorted(strengths, reverse=True):
        scores = judge(strength)
        loss = _loss(kind, scores, y[held_out])
        found.append((_accuracy(scores, y[held_out]), -loss, strength))
    validation_accuracy, _, strength = max(found)
    classifier = _classifier(kind, x, y)
    results = []
    for test_x, test_y in judged.values():
        scores = classifier(test_x.to(x.device))(strength)
        accuracy = _accuracy(scores, np.searchsorted(classes, test_y))
        results.append(
            ProbeResult(accuracy, validation_accuracy, strength, x.shape[1], validation, strengths)
        )
    return results


def stratified_split(
    labels: ArrayLike, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ascending rows to keep and rows to hold out, the same share of each class.

    Args:
        labels: (samples,).
        fraction: the share to hold out, rounded in each class; one sample of each class is always
            kept.
        seed: decides which samples are held out.

    Raises:
        ValueError: the fraction is not between 0 and 1, labels that are no vector, or nothing would
            be held out.
    """
    fraction = checks.real(fraction, "fraction")
    if not 0 < fraction < 1:
        raise ValueError(f"The fraction to hold out must lie between 0 and 1, got {fraction}.")
    array = np.asarray(labels)
    if array.ndim != 1:
        raise ValueError(f"labels must be (samples,), got shape {array.shape}.")
    rng = np.random.default_rng(checks.whole(seed, "seed", 0))
    held_out = np.zeros(len(array), dtype=bool)
    for label in np.unique(array):
        rows = rng.permutation(np.flatnonzero(array == label))
        held_out[rows[: min(round(fraction * len(rows)), len(rows) - 1)]] = True
    if not held_out.any():
        raise ValueError(
            f"{fraction} of each class of {len(array)} samples is less than one sample: nothing is "
            "left to choose by. Give more samples, or a larger fraction."
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _checked_strengths(strengths: Iterable[float]) -> tuple[float, ...]:
    given = checks.sequence(strengths, "strengths", "positive numbers")
    found = tuple(checks.real(strength, "an entry of strengths") for strength in given)
    if not found or not all(0 < strength < np.inf for strength in found):
        raise ValueError(f"strengths must be positive numbers, got {found}.")
    return found


def _checked(
    features: ArrayLike | Tensor, labels: ArrayLike | Tensor, which: str, where: str
) -> tuple[Tensor, NDArray[Any]]:
    if isinstance(features, Tensor) and not features.is_complex():
        x = (features.clone() if features.is_inference() else features.detach()).to(torch.float64)
    else:
        x = torch.from_numpy(checks.numbers(features, f"{which} features{where}"))
    y = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if x.ndim != 2 or y.shape != x.shape[:1] or not y.size:
        raise ValueError(
            f"{which} needs features (samples, features) and one label for each sample, got "
            f"features of shape {tuple(x.shape)} and labels of shape {y.shape}; one-hot labels "
            "become numbers by labels.argmax(1)."
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"{which} labels must be whole numbers, got {y.dtype}: give the number of the class, "
            "labels.long() where they are numbers of classes already."
        )
    if damaged := int((~x.isfinite()).any(dim=1).sum()):
        raise ValueError(
            f"{damaged} of {len(x)} {which} samples have features{where} that are NaN or "
            "infinite; has the network diverged, or does it overflow in half precision?"
        )
    return x, y


def _accuracy(scores: Tensor, labels: NDArray[Any]) -> float:
    return float(np.mean(scores.argmax(dim=1).cpu().numpy() == labels))


def _loss(kind: Kind, scores: Tensor, labels: NDArray[Any]) -> float:
    target = torch.as_tensor(labels, device=scores.device)
    if kind == "logistic":
        return float(F.cross_entropy(scores, target))
    return float(F.mse_loss(scores, F.one_hot(target, scores.shape[1]).to(scores)))


def _classifier(kind: Kind, x: Tensor, labels: NDArray[Any]) -> Classifier:
    """Fits on ``x``, and gives the scores of new samples at any strength."""
    mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(deviation > 0, deviation, torch.inf)  # drops constant features
    y = torch.as_tensor(labels, device=x.device)
    fitted = (ridge if kind == "ridge" else logistic)((x - mean) / scale, F.one_hot(y).to(x))
    return lambda new: fitted((new - mean) / scale)


def _block_features(
    model: nn.Module, watched: Sequence[Block], loader: Loader, pooling: int, which: str
) -> tuple[list[Tensor], Tensor]:
    parts: list[list[Tensor]] = [[] for _ in watched]
    labels = []
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    dtype = _precision(model)

    def look(position: int, z: Tensor) -> None:
        parts[position].append(pooled(z, pooling, watched[position].name))

    checks.instance(loader, Iterable, f"The {which} loader", "batches (inputs, labels)")
    with untouched(model), torch.no_grad():
        model.eval()
        for batch in loader:
            x, target = _read(batch, which)
            x = x.to(device=device, dtype=dtype if x.is_floating_point() else x.dtype)
            with one_pass(watched, look, rows=len(x)):
                # Copied, because a network may work in place on what it is given.
                model(x.clone() if x.is_inference() else x)
            labels.append(target)
    if not labels:
        raise ValueError(
            f"Nothing to probe: the {which} loader gave no batch. A generator gives its batches "
            "only once."
        )
    return [torch.cat(part) for part in parts], torch.cat(labels)


def _read(batch: Any, which: str) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a batch."""
    if isinstance(batch, Mapping):
        raise TypeError(
            f"The {which} loader gave a mapping with the keys {sorted(map(str, batch))}: give "
            'batches (inputs, labels), as in ((b["image"], b["label"]) for b in loader).'
        )
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise TypeError(
            f"The {which} loader must give batches (inputs, labels, ...), got "
            f"{checks.described(batch)}."
        )
    x, target = batch[:2]
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(x)
    checks.instance(x, Tensor, f"The inputs of a {which} batch", "one tensor (samples, ...)")
    target = torch.as_tensor(target).cpu()
    if not x.ndim or target.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"A {which} batch has inputs of shape {tuple(x.shape)} and labels of shape "
            f"{tuple(target.shape)}: give one label for each row."
        )
    return x, target


def _precision(model: nn.Module) -> torch.dtype | None:
    """The dtype of the weights, if they have one; normalisations take inputs of another, too."""
    norms = (_NormBase, nn.LayerNorm, nn.GroupNorm)
    of_norms: set[torch.dtype] = set()
    others: set[torch.dtype] = set()
    for module in model.modules():
        found = of_norms if isinstance(module, norms) else others
        found |= {p.dtype for p in module.parameters(recurse=False) if p.is_floating_point()}
    dtypes = others or of_norms
    return dtypes.pop() if len(dtypes) == 1 else None
