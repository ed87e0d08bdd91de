"""Laws of the linear probe: what it can read, what it may look at, what it leaves as it was."""

import numpy as np
import pytest
import torch
from torch import nn

from linlocal.analysis.probing import linear_probe, probe_blocks, stratified_split

KINDS = pytest.mark.parametrize("kind", ["ridge", "logistic"])


def clusters(samples, seed, classes=4, width=6, noise=0.05):
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    return np.eye(classes, width)[labels] + noise * rng.standard_normal((samples, width)), labels


@KINDS
def test_separable_classes_are_read_without_error(kind):
    found = linear_probe(*clusters(120, 0), *clusters(60, 1), seed=0, kind=kind)
    assert found.accuracy == found.validation_accuracy == 1.0
    assert found.num_features == 6


@KINDS
def test_independent_labels_are_guessed_by_chance(kind):
    rng = np.random.default_rng(0)
    classes, test = 4, 2000
    train_labels, test_labels = (rng.integers(classes, size=n) for n in (200, test))
    x, test_x = (rng.standard_normal((n, 10)) for n in (200, test))
    found = linear_probe(x, train_labels, test_x, test_labels, seed=0, kind=kind)
    chance = 1 / classes
    assert abs(found.accuracy - chance) < 4 * np.sqrt(chance * (1 - chance) / test)


@KINDS
def test_the_test_data_change_nothing_in_what_is_chosen(kind):
    train = clusters(80, 0, noise=1.0)
    test_x, test_labels = clusters(200, 1, noise=1.0)
    rng = np.random.default_rng(0)
    found, permuted, other = (
        linear_probe(*train, x, labels, seed=0, kind=kind)
        for x, labels in (
            (test_x, test_labels),
            (test_x, rng.permutation(test_labels)),
            (-test_x, test_labels),
        )
    )
    assert found.strength == permuted.strength == other.strength
    assert found.validation_accuracy == permuted.validation_accuracy == other.validation_accuracy
    assert found.accuracy > permuted.accuracy + 0.1
    assert found.accuracy > other.accuracy + 0.1


def test_the_strength_is_the_most_accurate_one_on_the_held_out_part():
    x, y = clusters(60, 0, width=50, noise=1.0)
    test = clusters(40, 1, width=50, noise=1.0)
    strengths = (1e-6, 1e-2, 1.0, 1e3)
    each = {
        s: linear_probe(x, y, *test, seed=3, strengths=[s]).validation_accuracy for s in strengths
    }
    assert len({*each.values()}) > 1
    best = max(each.values())
    for order in (strengths, strengths[::-1]):
        found = linear_probe(x, y, *test, seed=3, strengths=order)
        assert found.validation_accuracy == each[found.strength] == best


def ridge_by_hand(x, targets, new, strength):
    """``new W + b`` at the minimum of ``||Y - X W - b||^2 / n + s ||W||^2``, by its equations."""
    mean, scale = x.mean(0), x.std(0)
    x, new = (x - mean) / scale, (new - mean) / scale
    gram = x.T @ x / len(x) + strength * np.eye(x.shape[1])
    return new @ np.linalg.solve(gram, x.T @ targets / len(x)) + targets.mean(0)


@pytest.mark.parametrize("width", [6, 50], ids=["primal", "dual"])
def test_what_chooses_the_strength_has_not_seen_the_held_out_rows(width):
    """The choice made by hand: neither fit nor statistics use a row by which it is judged."""
    (x, y), (test_x, test_y) = (
        clusters(n, k, width=width, noise=1.2) for n, k in ((60, 0), (90, 1))
    )
    x, test_x = (each * np.geomspace(0.1, 10, width) + np.arange(width) for each in (x, test_x))
    rest, held_out = stratified_split(y, 0.3, seed=5)
    targets = np.eye(4)[y]
    strengths = (1e-5, 1e-2, 0.3, 10.0)
    judged = []
    for strength in strengths:
        scores = ridge_by_hand(x[rest], targets[rest], x[held_out], strength)
        loss = np.square(scores - targets[held_out]).mean()
        judged.append((np.mean(scores.argmax(1) == y[held_out]), -loss, strength))
        alone = linear_probe(x, y, test_x, test_y, seed=5, validation=0.3, strengths=[strength])
        assert alone.validation_accuracy == judged[-1][0]
        scores = ridge_by_hand(x, targets, test_x, strength)
        assert alone.accuracy == np.mean(scores.argmax(1) == test_y)
    found = linear_probe(x, y, test_x, test_y, seed=5, validation=0.3, strengths=strengths)
    assert (found.validation_accuracy, found.strength) == max(judged)[::2]
    assert found.accuracy < 1


@KINDS
def test_labels_of_held_out_rows_cannot_be_learned_by_heart(kind):
    """With more features than samples a classifier repeats any labels that it has seen."""
    rng = np.random.default_rng(0)
    classes, samples = 2, 200
    x, y = rng.standard_normal((samples, 400)), np.arange(samples) % classes
    found = linear_probe(x, y, x, y, seed=0, kind=kind, validation=0.5, strengths=[1e-6])
    assert found.accuracy == 1  # these it has seen
    assert abs(found.validation_accuracy - 0.5) < 4 * 0.5 / np.sqrt(samples / 2)


@KINDS
def test_each_test_sample_is_judged_alone(kind):
    """The others in the test, their mean and their scale among them, change no prediction."""
    train, (x, y) = clusters(80, 0, noise=0.8), clusters(60, 1, noise=0.8)
    x = 3 * x + 0.4  # neither mean nor scale of the training
    whole = linear_probe(*train, x, y, seed=0, kind=kind).accuracy
    of_class = [
        linear_probe(*train, x[y == k], y[y == k], seed=0, kind=kind).accuracy for k in range(4)
    ]
    singles = [
        linear_probe(*train, x[[k]], y[[k]], seed=0, kind=kind).accuracy for k in range(0, 60, 7)
    ]
    assert 0.4 < whole < 1
    assert len({*of_class}) > 1
    assert np.mean(of_class) == pytest.approx(whole, abs=1e-12)
    assert np.sum(singles) == 9 * linear_probe(*train, x[::7], y[::7], seed=0, kind=kind).accuracy


@KINDS
def test_of_equally_accurate_strengths_the_smallest_loss_decides(kind):
    # Every strength classifies the clusters without error, a huge one with scores of nearly 0.
    for strengths in ((1e-3, 1e3), (1e3, 1e-3)):
        found = linear_probe(
            *clusters(120, 0), *clusters(60, 1), seed=0, kind=kind, strengths=strengths
        )
        assert found.strength == 1e-3


@KINDS
def test_constant_features_and_the_scale_of_features_change_nothing(kind):
    (x, y), (test_x, test_y) = clusters(80, 0, noise=0.7), clusters(80, 1, noise=0.7)
    plain = linear_probe(x, y, test_x, test_y, seed=0, kind=kind)
    scaled = linear_probe(1e4 * x, y, 1e4 * test_x, test_y, seed=0, kind=kind)
    # Constant in training, but not in the test: nothing was learned, so they must not count.
    values = np.array([0.1, 0.3, 1 / 3, 1e5 / 7, 1e-5 / 3])
    constant, varying = np.tile(values, (80, 1)), np.outer(np.arange(80.0), 1e6 * values)
    with_constant = linear_probe(
        np.c_[x, constant], y, np.c_[test_x, varying], test_y, seed=0, kind=kind
    )
    assert plain.accuracy < 1
    assert plain.accuracy == scaled.accuracy == with_constant.accuracy
    assert plain.strength == scaled.strength == with_constant.strength


def test_labels_are_names_of_classes_and_not_their_numbers():
    (x, y), (test_x, test_y) = clusters(80, 0), clusters(40, 1)
    names = np.array([-7, 1000, 3, 99])
    assert linear_probe(x, names[y], test_x, names[test_y], seed=0).accuracy == 1.0


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(which, value):
    data = [*clusters(40, 0), *clusters(40, 1)]
    data[which][3, 2] = value
    with pytest.raises(ValueError, match=r"1 of 40 \w+ samples have features that are NaN"):
        linear_probe(*data, seed=0)


def test_what_does_not_fit_is_refused():
    (x, y), (test_x, test_y) = clusters(40, 0), clusters(20, 1)
    with pytest.raises(ValueError, match=r"Test labels \[4\] never occur in training \(4"):
        linear_probe(x, y, test_x, np.where(test_y == 0, 4, test_y), seed=0)
    with pytest.raises(ValueError, match="6 features in training, but 5 in the test"):
        linear_probe(x, y, test_x[:, :5], test_y, seed=0)
    with pytest.raises(ValueError, match=r"features of shape \(40, 6\) and labels of shape \(39,"):
        linear_probe(x, y[:39], test_x, test_y, seed=0)
    with pytest.raises(ValueError, match="whole numbers, got float64"):
        linear_probe(x, y + 0.5, test_x, test_y, seed=0)
    with pytest.raises(ValueError, match="strengths must be positive"):
        linear_probe(x, y, test_x, test_y, seed=0, strengths=[1.0, 0.0])
    with pytest.raises(ValueError, match='kind must be "ridge"'):
        linear_probe(x, y, test_x, test_y, seed=0, kind="svm")
    with pytest.raises(ValueError, match="less than one sample"):
        linear_probe(x[:4], y[:4], test_x, test_y, seed=0)


def test_the_split_is_disjoint_complete_stratified_and_decided_by_the_seed():
    labels = np.repeat([5, 6, 7], [100, 50, 1])
    rest, held_out = stratified_split(labels, 0.2, seed=0)
    assert sorted([*rest, *held_out]) == list(range(151))
    assert [int((labels[held_out] == k).sum()) for k in (5, 6, 7)] == [20, 10, 0]
    np.testing.assert_array_equal(held_out, stratified_split(labels, 0.2, seed=0)[1])
    assert not np.array_equal(held_out, stratified_split(labels, 0.2, seed=1)[1])
    # One sample of each class is kept, however much is held out.
    assert {*labels[stratified_split(labels, 0.999, seed=0)[0]]} == {5, 6, 7}
    with pytest.raises(ValueError, match="between 0 and 1"):
        stratified_split(labels, 1.0, seed=0)


class Network(nn.Module):
    """The first block passes its input on; the second one's ReLU overwrites the first's output."""

    def __init__(self):
        super().__init__()
        self.first = nn.Identity()
        self.second = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(3), nn.Dropout(0.9))
        self.tail = nn.Dropout(0.5)
        self.second.eval()  # a mode of its own

    def forward(self, x):
        return self.tail(self.second(self.first(x - 0.0)))


def loader(samples, seed, batch=16):
    """Class 0 has a negative mean in the first channel, so that a ReLU removes most of it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 2
    x = torch.randn(samples, 3, 4, 4, generator=generator) * 0.1
    x[:, 0] += (labels.double()[:, None, None] - 2.0).float()
    return list(zip(x.split(batch), labels.split(batch), strict=True))


def test_every_block_is_probed_as_it_was_before_in_place_changes():
    found = probe_blocks(Network(), ["first", "second"], loader(64, 0), loader(48, 1), seed=0)
    assert found.block.values.tolist() == ["1", "2", "all"]
    assert found.name.values.tolist() == ["first", "second", "all"]
    assert found.num_features.values.tolist() == [3, 3, 6]
    assert found.accuracy.sel(block="1") == found.accuracy.sel(block="all") == 1.0
    # After the ReLU the class is gone from the first channel.
    assert found.accuracy.sel(block="2") < 0.8


@pytest.mark.parametrize("training", [True, False])
def test_features_are_those_of_the_eval_mode_whatever_the_mode(training):
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.Dropout(0.9), nn.Flatten(1)))
    with torch.no_grad():
        model[0].running_mean += torch.tensor([1.0, -2.0, 0.0])
    train, test = loader(64, 0), loader(48, 1)
    model.eval()
    with torch.no_grad():
        sides = [
            (torch.cat([model(x) for x, _ in part]), torch.cat([y for _, y in part]))
            for part in (train, test)
        ]
    expected = linear_probe(*sides[0], *sides[1], seed=0)
    model.train(training)
    found = probe_blocks(model, ["0", "1"], train, test, seed=0).sel(block="2")
    assert (found.accuracy, found.strength, found.validation_accuracy) == (
        expected.accuracy,
        expected.strength,
        expected.validation_accuracy,
    )
    assert model.training == training


def test_a_vector_is_probed_as_it_was_before_in_place_changes():
    model = nn.Sequential(nn.Flatten(1), nn.ReLU(inplace=True))
    found = probe_blocks(model, ["0"], loader(64, 0), loader(48, 1), seed=0)
    clean = probe_blocks(nn.Sequential(nn.Flatten(1)), ["0"], loader(64, 0), loader(48, 1), seed=0)
    assert found.accuracy.sel(block="1") == clean.accuracy.sel(block="1") == 1.0


def test_probing_a_block_is_probing_its_pooled_features():
    train, test = loader(64, 0), loader(48, 1)
    found = probe_blocks(Network(), ["first"], train, test, seed=2, pooling=2, kind="logistic")
    sides = [
        (
            torch.cat([nn.functional.avg_pool2d(x, 2).flatten(1) for x, _ in part]),
            torch.cat([y for _, y in part]),
        )
        for part in (train, test)
    ]
    expected = linear_probe(*sides[0], *sides[1], seed=2, kind="logistic")
    assert found.num_features.sel(block="1") == expected.num_features == 12
    assert found.accuracy.sel(block="1") == expected.accuracy
    assert found.strength.sel(block="1") == expected.strength


def test_sequences_are_averaged_over_tokens_and_vectors_stay():
    model = nn.Sequential(nn.Flatten(2), nn.Flatten(1))
    found = probe_blocks(model, ["0", "1"], loader(32, 0), loader(32, 1), seed=0)
    assert found.num_features.values.tolist() == [16, 48, 64]


class Shaped(nn.Module):
    """Gives its inputs another shape."""

    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return x.reshape(len(x), *self.shape) - 0.0


@pytest.mark.parametrize(
    ("shape", "pooling", "read"),
    [
        ((8, 6), 1, lambda z: z.mean(1)),
        ((8, 6), 3, lambda z: z.mean(1)),
        ((6, 2, 4), 1, lambda z: z.mean((2, 3))),
        ((6, 2, 4), 2, lambda z: z.unflatten(3, (2, 2)).mean(4).flatten(1)),
        ((6, 2, 4), 3, lambda z: nn.functional.adaptive_avg_pool2d(z, (2, 3)).flatten(1)),
        ((6, 4, 2), 3, lambda z: nn.functional.adaptive_avg_pool2d(z, (3, 2)).flatten(1)),
        ((6, 2, 4), 9, lambda z: z.flatten(1)),
        ((48,), 2, lambda z: z),
    ],
)
def test_what_is_read_of_sequences_maps_and_vectors(shape, pooling, read):
    """Means over all tokens and over cells of maps of any sides, and vectors as they are."""
    train, test = loader(64, 0), loader(48, 1)
    model = nn.Sequential(Shaped(*shape))
    found = probe_blocks(model, ["0"], train, test, seed=0, pooling=pooling).sel(block="1")
    sides = [
        (
            torch.cat([read(x.reshape(len(x), *shape)) for x, _ in part]),
            torch.cat([y for _, y in part]),
        )
        for part in (train, test)
    ]
    expected = linear_probe(*sides[0], *sides[1], seed=0)
    assert found.num_features == expected.num_features
    assert (found.accuracy, found.strength) == (expected.accuracy, expected.strength)


def test_all_blocks_are_probed_side_by_side():
    train, test = loader(64, 0), loader(48, 1)
    model = nn.Sequential(Shaped(6, 2, 4), Shaped(6, 8), Shaped(48))
    found = probe_blocks(model, ["0", "1", "2"], train, test, seed=0).sel(block="all")
    sides = []
    for part in (train, test):
        flat = torch.cat([x.flatten(1) for x, _ in part])
        grids = flat.reshape(-1, 6, 2, 4).mean((2, 3)), flat.reshape(-1, 6, 8).mean(1)
        sides += [torch.cat([*grids, flat], 1), torch.cat([y for _, y in part])]
    expected = linear_probe(*sides, seed=0)
    assert found.num_features == expected.num_features == 6 + 8 + 48
    assert (found.accuracy, found.strength) == (expected.accuracy, expected.strength)


def test_the_model_is_left_as_it_was_also_after_an_error():
    model = Network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert {*modes} == {True, False}
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="elements"):
        probe_blocks(model, ["first"], [(torch.zeros(2, 5, 4, 4), torch.zeros(2))], [], seed=0)
    probe_blocks(model, ["first"], loader(32, 0), loader(32, 1), seed=0)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in model.parameters())


def test_a_block_must_exist_run_once_and_return_a_tensor():
    train = test = loader(32, 0)
    with pytest.raises(ValueError, match="no submodule 'third'"):
        probe_blocks(Network(), ["first", "third"], train, test, seed=0)
    shared = nn.Identity()
    with pytest.raises(RuntimeError, match=r"must run once each.* they ran as 0, 0"):
        probe_blocks(nn.Sequential(shared, nn.ReLU(), shared), ["0"], train, test, seed=0)
    pool = nn.Sequential(nn.MaxPool2d(2, return_indices=True))
    with pytest.raises(ValueError, match="'0' returned tuple, expected one tensor"):
        probe_blocks(pool, ["0"], train, test, seed=0)
    with pytest.raises(ValueError, match="the training loader gave no batch"):
        probe_blocks(Network(), ["first"], [], test, seed=0)


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, y, torch.arange(len(y))),
        lambda x, y: [x, y],
        lambda x, y: (x.numpy(), y.numpy()),
        lambda x, y: (x, y.tolist()),
        lambda x, y: (x.double(), y.int()),
    ],
    ids=["index", "list", "numpy", "labels in a list", "other dtypes"],
)
def test_batches_of_every_usual_form_are_read_alike(form):
    plain = probe_blocks(Network(), ["first"], loader(64, 0), loader(48, 1), seed=0)
    train, test = ([form(x, y) for x, y in part] for part in (loader(64, 0), loader(48, 1)))
    found = probe_blocks(Network(), ["first"], iter(train), (b for b in test), seed=0)
    assert found.identical(plain)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ({"image": 1, "label": 2}, TypeError, r"mapping with the keys \['image', 'label'\]"),
        (torch.zeros(4, 3, 4, 4), TypeError, r"must give batches \(inputs, labels, ...\), got a"),
        ((torch.zeros(4, 3),), TypeError, r"must give batches \(inputs, labels, ...\)"),
        (((torch.zeros(4, 3), torch.zeros(4, 3)), [0, 1, 0, 1]), TypeError, "inputs of a training"),
        ((torch.zeros(4, 3, 4, 4), [0, 1, 0]), ValueError, r"\(3,\): give one label for each row"),
        ((torch.zeros(4, 3, 4, 4), [0.0, 1, 0, 1]), ValueError, r"float32: give the number .*long"),
        ((torch.zeros(4, 3, 4, 4), torch.eye(4).long()), ValueError, r"one-hot .*argmax\(1\)"),
        ((torch.zeros(4, 3, 4, 4), [7, 7, 7, 7]), ValueError, "All 4 training labels are 7: .*two"),
        (
            (torch.full((4, 3, 4, 4), torch.nan), [0, 1, 0, 1]),
            ValueError,
            "4 of 4 training samples have features of block 'first' that are NaN",
        ),
    ],
    ids=["dict", "tensor", "one", "two views", "rows", "floats", "one-hot", "one class", "nan"],
)
def test_what_is_no_labelled_batch_is_refused_in_words(batch, error, message):
    with pytest.raises(error, match=message):
        probe_blocks(Network(), ["first"], [batch], [batch], seed=0)


def test_a_generator_used_twice_is_named_as_the_cause():
    batches = iter(loader(32, 0))
    with pytest.raises(ValueError, match=r"test loader gave no batch. A generator .*only once"):
        probe_blocks(Network(), ["first"], batches, batches, seed=0)


@pytest.mark.parametrize(
    ("strengths", "error", "message"),
    [
        ([], ValueError, "must be positive numbers"),
        (1.0, TypeError, "strengths must be a sequence of positive numbers"),
        (["1"], TypeError, "an entry of strengths must be a number"),
        ([np.nan], ValueError, "must be positive numbers"),
        ([np.inf], ValueError, "must be positive numbers"),
    ],
)
def test_strengths_that_are_none_are_refused(strengths, error, message):
    with pytest.raises(error, match=message):
        linear_probe(*clusters(40, 0), *clusters(20, 1), seed=0, strengths=strengths)


def test_strengths_may_be_of_any_sequence_and_stand_in_the_result():
    data = (*clusters(40, 0), *clusters(20, 1))
    strengths = np.logspace(-3, 3, 7)
    found = linear_probe(*data, seed=0, strengths=strengths, validation=0.3)
    assert found == linear_probe(*data, seed=0, strengths=iter([*strengths]), validation=0.3)
    assert (found.strengths, found.validation) == (tuple(strengths), 0.3)
    of_blocks = probe_blocks(
        Network(), ["first"], loader(64, 0), loader(48, 1), seed=0, strengths=strengths
    )
    assert of_blocks.strengths.values.tolist() == strengths.tolist()
    assert of_blocks.attrs["validation"] == 0.2
    by_default = linear_probe(*data, seed=0).strengths
    np.testing.assert_allclose(by_default, [10.0**k for k in range(-6, 4)], rtol=1e-12)


@KINDS
def test_inference_mode_around_a_probe_changes_nothing(kind):
    make = lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(1), nn.Linear(48, 8))  # noqa: E731
    torch.manual_seed(0)
    model = make()
    plain = probe_blocks(model, ["2"], loader(64, 0), loader(48, 1), seed=0, kind=kind)
    with torch.inference_mode():
        batches = loader(64, 0), loader(48, 1)
        found = probe_blocks(model, ["2"], *batches, seed=0, kind=kind)
        x, y = (torch.from_numpy(a) for a in clusters(40, 0))
        inside = linear_probe(x, y, x, y, seed=0, kind=kind)
    assert found.identical(plain)
    assert inside == linear_probe(x, y, x, y, seed=0, kind=kind)


def test_inputs_take_the_precision_of_the_weights_below_a_norm_of_another():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(1), nn.Linear(48, 8).bfloat16())
    found = probe_blocks(model, ["2"], loader(64, 0), loader(48, 1), seed=0)
    assert found.accuracy.sel(block="1") > 0.9


def test_features_of_a_float64_network_keep_their_digits():
    # The classes differ by less than float32 can tell.
    x, y = torch.ones(40, 1, dtype=torch.float64), torch.arange(40) % 2
    x[:, 0] += y * 1e-9
    batches = [(x, y)]
    found = probe_blocks(nn.Sequential(nn.Flatten(1)), ["0"], batches, batches, seed=0)
    assert found.accuracy.sel(block="1") == 1.0


@KINDS
def test_several_tests_are_those_of_one_each(kind):
    train, others = loader(64, 0), {"validation": loader(48, 1), "test": loader(32, 2)}
    names = ["first", "second"]
    both = probe_blocks(Network(), names, train, others, seed=0, kind=kind)
    for part, test in others.items():
        alone = probe_blocks(Network(), names, train, test, seed=0, kind=kind)
        assert both.sel(part=part, drop=True).identical(alone)


def test_each_loader_is_read_once():
    counts = []

    class Counted(list):
        def __iter__(self):
            counts.append(len(self))
            return super().__iter__()

    parts = {"validation": Counted(loader(48, 1)), "test": Counted(loader(32, 2))}
    probe_blocks(Network(), ["first"], Counted(loader(64, 0)), parts, seed=0)
    assert counts == [4, 3, 2]


def test_an_output_of_five_axes_is_refused():
    model = nn.Sequential(nn.Unflatten(1, (1, 3)))
    with pytest.raises(ValueError, match=r"'0' returned shape \(16, 1, 3, 4, 4\); a probe reads"):
        probe_blocks(model, ["0"], loader(32, 0), loader(32, 1), seed=0)
