"""Laws of tasks made of grammars and of supervised training on them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from experiments.training import (
    TERMS,
    Convergence,
    Examples,
    NetworkRecipe,
    Remedy,
    Search,
    Task,
    TokenNet,
    accuracy,
    best_rate,
    class_labels,
    climb,
    error_terms,
    fit_labels,
    fit_together,
    last_token_losses,
    layer_activities,
    learn_with_best_rate,
    one_hot_leaves,
)
from experiments.training.hierarchy_stack import Stack
from experiments.training.hierarchy_tasks import LARGEST_TEST, LARGEST_VALIDATION
from linlocal.analysis import results
from linlocal.analysis.hierarchy import Feedback
from linlocal.rhm import RandomHierarchyModel
from linlocal.rhm.tokens import LastToken

TINY = Task(num_symbols=4, num_synonyms=2, num_levels=2, multiple=1.5, seed=0)
RECIPE = NetworkRecipe(width=32, learning_rate=1e-2)
UNTIL = Convergence(cap=400)


@pytest.mark.parametrize(
    "task", [TINY, replace(TINY, num_levels=3, multiple=3.0, seed=2), Task(8, 4, 3, 1.0, 0)]
)
def test_splits_are_disjoint_and_as_large_as_they_say(task):
    rhm = task.rhm
    parts = task.split()
    left = rhm.num_data - task.num_train
    num_test = min(LARGEST_TEST, left // 2)
    num_validation = min(LARGEST_VALIDATION, left - num_test)
    assert [len(part) for part in parts] == [task.num_train, num_validation, num_test]
    numbers = np.concatenate([rhm.index(part) for part in parts])
    assert len(np.unique(numbers)) == len(numbers)
    assert task.num_train == round(
        task.multiple * task.num_symbols * task.num_synonyms**task.num_levels
    )


def test_a_task_is_possible_while_a_fifth_of_all_data_is_left():
    # 4 * 2^3 = 32 data of which 16 are P*.
    assert TINY.rhm.num_data == 32
    assert TINY.largest == 25 / 16
    edge = replace(TINY, multiple=25 / 16)
    assert edge.possible
    assert edge.split()
    over = replace(TINY, multiple=26 / 16)
    assert not over.possible
    with pytest.raises(ValueError, match="26 training data are more than 80 % of the 32"):
        over.split()


def test_a_larger_training_set_has_the_same_rules():
    one, other = (replace(TINY, multiple=multiple).rhm for multiple in (0.5, 1.5))
    np.testing.assert_array_equal(one.rules[0], other.rules[0])
    assert not np.array_equal(one.rules[0], replace(TINY, seed=1).rhm.rules[0])


def data(task):
    train, _, _ = task.split()
    return one_hot_leaves(task.rhm, train.leaves), class_labels(train)


def fitted(recipe=RECIPE, seed=0, task=TINY, until=UNTIL):
    inputs, labels = data(task)
    net = recipe.network(task.rhm, seed)
    fit = fit_labels(net, recipe, inputs, labels, seed, until)
    return net, fit


def same(one, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize(
    "architecture", ["convolutional", "locally connected", "fully connected", "shallow"]
)
def test_every_network_fits_a_tiny_grammar(architecture, optimiser):
    rate = {"adam": 1e-2, "sgd": 5e-2}[optimiser]
    recipe = replace(RECIPE, architecture=architecture, optimiser=optimiser, learning_rate=rate)
    net, fit = fitted(recipe)
    assert accuracy(net, *data(TINY)) == 1.0
    assert fit.loss < 0.1


def test_what_generalises_is_the_grammar_and_not_chance():
    task = Task(num_symbols=4, num_synonyms=2, num_levels=3, multiple=6.0, seed=0)
    search, recipe = Search((3e-3, 1e-2), extensions=0, grammars=1), NetworkRecipe(width=32)
    found = learn_with_best_rate(task, recipe, Feedback(), search, 2, Convergence(cap=1000))
    assert (found["test_accuracy"] > 0.95).all()
    assert found["finished"].all()
    assert (found["steps"] < 1000).all()  # it stops when the batches are fitted
    untrained = learn_with_best_rate(task, recipe, Feedback(), search, 2, Convergence(cap=1))
    assert (untrained["test_accuracy"] < 0.6).all()
    assert not untrained["finished"].any()


def test_training_is_repeatable_bit_by_bit_whatever_the_process_did_before():
    one, _ = fitted()
    torch.manual_seed(99)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        state = torch.get_rng_state()
        other, _ = fitted()
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)
    assert same(one, other)
    assert not same(one, fitted(seed=1)[0])


def test_a_divergence_ends_in_nan_and_in_chance():
    recipe = replace(RECIPE, optimiser="sgd", learning_rate=1e6)
    net, fit = fitted(recipe)
    assert np.isnan(fit.loss)
    assert fit.steps < UNTIL.cap
    assert not fit.finished
    assert accuracy(net, *data(TINY)) < 0.6


def test_asking_for_activities_changes_nothing():
    recipe = replace(RECIPE, normalise=True)
    net, _ = fitted(recipe)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    train, _, _ = TINY.split()
    layers = layer_activities(net, TINY.rhm)
    first = layers(train.leaves)
    assert [tuple(z.shape[1:]) for z in first] == [(2, 32), (1, 32)]
    assert not any(z.requires_grad for z in first)
    # One datum alone is what it is among others: no statistics of the batch.
    torch.testing.assert_close(layers(train.leaves[:1])[-1], first[-1][:1])
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


# -- when a training is finished -------------------------------------------------------------------

CRITERION = Convergence(cap=4000, least=400, improvement=0.02, floor=0.01)


def course(losses, criterion=CRITERION):
    progress = criterion.watch()
    while not progress.add(float(losses(progress.steps))):
        pass
    return progress


def test_a_training_ends_at_the_floor_at_a_plateau_or_at_the_cap():
    fitted = course(lambda t: np.exp(-t / 50))
    assert fitted.finished
    assert fitted.smoothed < CRITERION.floor
    assert fitted.steps < CRITERION.least
    # Above the floor nothing but a plateau ends it, and there is none before `least`.
    flat = course(lambda t: 0.5 + np.exp(-t / 50))
    assert flat.finished
    assert CRITERION.least <= flat.steps < CRITERION.cap
    falling = course(lambda t: 10 / (1 + t / 100))
    assert not falling.finished
    assert falling.steps == CRITERION.cap
    assert course(lambda t: -1.0).finished
    unbounded = replace(CRITERION, floor=-np.inf)
    assert not course(lambda t: -1.0 - t / 100, unbounded).finished
    assert course(lambda t: -1.0, unbounded).steps < CRITERION.cap


def test_a_training_twice_as_slow_is_given_twice_the_time():
    patient = replace(CRITERION, cap=10**5)
    fast, slow = (course(lambda t, s=s: 0.5 + np.exp(-t / s), patient) for s in (400, 800))
    assert slow.steps == pytest.approx(2 * fast.steps, rel=0.1)
    assert slow.finished
    assert fast.finished


def test_one_good_batch_is_no_end_and_a_bad_one_is():
    assert course(lambda t: 0.0).steps > 1
    broken = course(lambda t: np.nan if t == 7 else 1.0)
    assert (broken.steps, broken.finished) == (8, False)
    assert np.isnan(broken.smoothed)


def test_a_plateau_far_above_the_start_is_a_divergence():
    risen, stayed = course(lambda t: min(1e7, 1.5 + t**3)), course(lambda t: 1.5)
    assert risen.steps < CRITERION.cap
    assert not risen.finished
    assert stayed.finished


# -- many networks at once -------------------------------------------------------------------------

FEEDBACKS = [
    *(Feedback(masks=masks) for masks in ("sample", "batch", "none")),
    *(Feedback("random", masks) for masks in ("sample", "none")),
    Feedback("transposed", "none", local_derivative=False),
    Feedback("transposed", local_derivative=False),
    Feedback("direct"),
    Feedback("direct", local_derivative=False),
    Feedback("target"),
]


def sets(seeds=(0, 1), multiple=3.0):
    tasks = [Task(4, 2, 3, multiple, seed) for seed in seeds]
    return tasks, [task.split()[0] for task in tasks]


def together(recipe, rule, until, rates):
    tasks, parts = sets()
    feedback = rule.network if isinstance(rule, Remedy) else rule
    nets = [recipe.network(task.rhm, task.seed, feedback) for task in tasks]
    examples = [
        Examples(each.leaves, each.labels, task.seed)
        for task, each in zip(tasks, parts, strict=True)
    ]
    fits = fit_together(
        nets, rule, examples, optimiser=recipe.optimiser, learning_rates=rates, until=until
    )
    return nets, fits


@pytest.mark.parametrize("rule", FEEDBACKS, ids=str)
@pytest.mark.parametrize(
    ("sharing", "optimiser", "normalise"),
    [("convolutional", "adam", False), ("locally connected", "sgd", True)],
)
def test_networks_trained_together_are_those_trained_one_by_one(
    rule, sharing, optimiser, normalise
):
    rates = {"adam": (3e-3, 1e-2), "sgd": (3e-2, 1e-2)}[optimiser]
    recipe = NetworkRecipe(sharing, 8, normalise=normalise, optimiser=optimiser)
    until = Convergence(cap=6)
    nets, fits = together(recipe, rule, until, rates)
    for task, part, net, fit, rate in zip(*sets(), nets, fits, rates, strict=True):
        own = replace(recipe, learning_rate=rate)
        alone = own.network(task.rhm, task.seed, rule)
        inputs = one_hot_leaves(task.rhm, part.leaves)
        single = fit_labels(alone, own, inputs, class_labels(part), task.seed, until)
        assert (fit.steps, fit.finished) == (single.steps, single.finished)
        assert fit.loss == pytest.approx(single.loss, rel=1e-5)
        for one, other in zip(net.state_dict().values(), alone.state_dict().values(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_network_that_is_finished_leaves_the_others_alone():
    recipe, until = NetworkRecipe(width=8), Convergence(cap=40)
    nets, fits = together(recipe, Feedback(), until, (1e-3, 1e-2))
    broken, ended = together(recipe, Feedback(), until, (1e-3, 1e30))
    assert ended[1].steps < fits[1].steps
    assert fits[0] == ended[0]
    assert all(
        torch.equal(a, b) for a, b in zip(nets[0].parameters(), broken[0].parameters(), strict=True)
    )


def stack_of(rule, width=16, levels=3):
    task = Task(4, 2, levels, 3.0, 0)
    feedback = rule.network if isinstance(rule, Remedy) else rule
    net = NetworkRecipe(width=width).network(task.rhm, 0, feedback)
    train, _, _ = task.split()
    leaves, labels = torch.from_numpy(train.leaves)[None].long(), class_labels(train)[None]
    return net, Stack([net], rule, [0]), leaves, labels, one_hot_leaves(task.rhm, train.leaves)


def test_gated_feedback_is_backpropagation_in_a_network_of_its_matrices():
    """Put R and B in place of the weights above, keep the masks: autograd gives the same error."""
    net, stack, leaves, labels, inputs = stack_of(Remedy("gated"))
    made = stack.forward(leaves, labels)
    signals = stack.signals(made)
    z = net.activities(inputs)
    e = made.error[0]
    g = (e @ stack.direct[0][0]).view_as(z[-1])
    for l in (2, 1, 0):
        own = g * (z[l] > 0)
        torch.testing.assert_close(signals[l][0], own, rtol=1e-5, atol=1e-8)
        carrier = net.layers[l].carrier[0]
        if l:
            g = torch.stack([d @ carrier for d in own.unbind(1)], 1).view_as(z[l - 1])
    assert not torch.allclose(stack.direct[0][0], net.readout.weight)


def test_aligned_feedback_is_the_least_squares_fit_to_backpropagation():
    """Of the first batch; with the true masks the fit of each factor is backpropagation."""
    net, stack, leaves, labels, inputs = stack_of(Remedy("aligned"))
    made = stack.forward(leaves, labels)
    stack.signals(made)
    z = net.activities(inputs)
    for each in z:
        each.retain_grad()
    logits = net.readout(z[-1].flatten(1))
    torch.nn.functional.cross_entropy(logits, labels[0]).backward()
    e = made.error[0].double()
    e = e - e.mean(1, keepdim=True)  # rounding would be fitted, too
    for l, each in enumerate(z):
        wanted = each.grad.flatten(1).double()
        fit = e @ torch.linalg.pinv(e, rtol=1e-4) @ wanted
        ours = e @ stack.direct[l][0].double()
        residual = (wanted - fit).norm()
        assert (wanted - ours).norm() <= residual * 1.001 + 1e-3 * wanted.norm()
        if l < 2:
            assert residual > 0.1 * wanted.norm()
    for l in (1, 2):
        passed = (z[l].grad * (z[l] > 0)).detach().flatten(0, 1)
        below = z[l - 1].grad.view(len(passed), -1)
        fit = passed @ (torch.linalg.pinv(passed, rtol=1e-4) @ below)
        weight = net.layers[l].weight[0].detach()
        torch.testing.assert_close(fit, passed @ weight, rtol=1e-3, atol=1e-6)


def chained(net, z, masks, lowest):
    """The readout of the activity of a layer through the layers above, with these masks."""
    h = z
    for layer, mask in zip(net.layers[lowest:], masks[lowest:], strict=True):
        read = h.unflatten(1, (-1, layer.tuple_size)).flatten(2)
        h = read @ layer.weight[0].T.to(h) * mask
    return h.flatten(1) @ net.readout.weight.T.to(h)


@pytest.mark.parametrize("kind", ["direct", "target"])
def test_terms_of_the_error_are_those_of_autograd_through_the_masks(kind):
    net, stack, leaves, labels, inputs = stack_of(Feedback(kind))
    found = error_terms(stack, leaves, labels).isel(network=0)
    activities = [each.detach().double() for each in net.activities(inputs)]
    own = [(each > 0).double() for each in activities]
    logits = net.readout(activities[-1].flatten(1).float()).detach().double()
    one_hot = torch.nn.functional.one_hot(labels[0], logits.shape[1])
    error = (logits.softmax(1) - one_hot) / len(logits)
    for l, z in enumerate(activities, start=1):
        signals = []
        for masks in (own, [each.mean(0) for each in own]):
            at = z.clone().requires_grad_()
            (error * chained(net, at, masks, l)).sum().backward()
            signals.append((at.grad * own[l - 1]).flatten())
        true, averaged = signals
        averaged = averaged * true.norm() / averaged.norm()
        matrix = getattr(net, f"direct_{l}").double()
        plain = ((error @ matrix).view_as(z) * own[l - 1]).flatten()
        sent = plain
        if kind == "target":
            sent = stack.sent(stack.forward(leaves, labels))[l - 1][0].double()
            sent = (sent * own[l - 1]).flatten()
        scale = true.norm() / sent.norm()
        cosine = (true @ sent) / (true.norm() * sent.norm())
        here = found.sel(layer=l)
        for name, term in (
            ("masks", true - averaged),
            ("feedback", averaged - scale * plain),
            ("slopes", scale * (plain - sent)),
        ):
            assert float(here[name]) == pytest.approx(float(term.norm() / true.norm()), abs=2e-5)
        assert float(here["error_cosine"]) == pytest.approx(float(cosine), abs=2e-5)
        shares = sum(float(here[f"{name}_shapley"]) for name in ("masks", "feedback", "slopes"))
        assert shares == pytest.approx(1 - float(cosine), abs=2e-5)
    assert (float(found["slopes"].max()) > 1e-3) == (kind == "target")
    assert float(found["masks"].sel(layer=1)) > 0.1


@pytest.mark.parametrize(
    ("rule", "missing"),
    [
        (Feedback(), ()),
        (Feedback("random"), ("feedback",)),
        (Remedy("gated"), ("feedback",)),
        (Feedback(masks="batch"), ("masks",)),
        (Feedback(masks="none"), ("masks",)),
        (Feedback("direct"), ("masks", "feedback")),
        (Remedy("aligned"), ("masks", "feedback")),
        (Feedback("target"), ("masks", "feedback", "slopes")),
    ],
    ids=str,
)
def test_a_rule_lacks_what_it_has_not(rule, missing):
    """True masks with random matrices lack no masks; the true weights lack no matrices."""
    _, stack, leaves, labels, _ = stack_of(rule)
    found = error_terms(stack, leaves, labels).isel(network=0, layer=0)
    assert {name for name in TERMS if float(found[name]) > 1e-5} == set(missing)
    if not missing:
        assert float(found["error_cosine"]) == pytest.approx(1, abs=1e-6)


def test_a_stack_refuses_lists_that_do_not_belong_together():
    tasks, parts = sets()
    examples = [Examples(each.leaves, each.labels, 0) for each in parts]
    nets = [NetworkRecipe(width=8).network(task.rhm, 0) for task in tasks]
    options = {"optimiser": "adam", "until": UNTIL}
    with pytest.raises(ValueError, match="2 networks, 2 data sets and 1 learning rates"):
        fit_together(nets, Feedback(), examples, learning_rates=[1e-2], **options)
    short = [examples[0], Examples(parts[1].leaves[:5], parts[1].labels[:5], 0)]
    with pytest.raises(ValueError, match="one shape"):
        fit_together(nets, Feedback(), short, learning_rates=[1e-2] * 2, **options)


# -- learning rates and sizes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "best", "inside"),
    [
        ({1: 0.5, 3: 0.9, 10: 0.6}, 3, True),
        ({1: 0.95, 3: 0.9, 10: 0.6}, 1, False),
        ({1: 0.5, 3: 0.8, 10: 0.9}, 10, False),
        ({10: 0.9, 1: 0.9, 3: 0.9}, 3, True),
        ({1: 0.5}, 1, False),
    ],
)
def test_the_best_rate_is_the_middle_of_the_best_and_says_whether_it_is_inside(
    scores, best, inside
):
    assert best_rate(scores) == (best, inside)


def climbed(needs, largest=100.0, accuracy=(0.2, 1.0)):
    """Cells that learn from a multiple on, on a grid of 1..9; what was measured."""
    asked = []

    def measure(needs, multiple):
        asked.append((needs, multiple))
        right = accuracy[multiple >= needs]
        return dataset(right)

    found = climb(
        lambda function, points, _: [function(**point) for point in points],
        measure,
        [{"needs": each} for each in needs],
        list(range(1, 10)),
        lambda cell: largest,
        lambda cell: 0.9,
        "climb",
    )
    return asked, found


def dataset(value):
    return xr.Dataset({"test_accuracy": ("repetition", [value] * 2)})


def test_sizes_grow_until_a_cell_has_learned_and_the_step_before_is_halved():
    asked, (four, never) = climbed([4, 99])
    assert [multiple for needs, multiple in asked if needs == 4] == [1, 3, 5, 4]
    assert [multiple for needs, multiple in asked if needs == 99] == [1, 3, 5, 7, 9]
    measured = four["test_accuracy"].notnull().all("repetition")
    assert four["multiple"].values[measured].tolist() == [1, 3, 4, 5]
    assert never["test_accuracy"].notnull().all("repetition").sum() == 5
    # The grammar has no more data: the largest possible size is tried.
    asked, _ = climbed([99], largest=4.5)
    assert [multiple for _, multiple in asked] == [1, 3, 4]


def test_diffusion_leaves_nothing_at_full_noise_and_everything_valid_in_many_steps(smoke):
    data = results.read(smoke("rhm_diffusion"))
    np.testing.assert_allclose(data["belief"].sel(noise=1.0), 1 / 16, atol=1e-12)
    assert (data["belief"].diff("noise") < 0).all()
    assert (data["changed"].sel(time=0.9) > data["changed"].sel(time=0.1)).all()
    valid = data["valid"].sel(level=slice(1, None))
    assert (valid.isel(steps=-1) >= valid.isel(steps=0)).all()
    assert data["valid"].sel(level=0).isnull().all()


@pytest.mark.parametrize("kind", ["transformer", "convolutional"])
def test_no_network_beats_the_floor_of_the_last_token(kind):
    """Trained, it falls below the loss of one who knows the frequencies; never below the floor."""
    rhm = RandomHierarchyModel(num_classes=4, num_symbols=4, num_synonyms=2, num_levels=3, seed=1)
    losses = last_token_losses(
        TokenNet(rhm, kind, 16, seed=0),
        rhm,
        counts=(32, 4800),
        batch_size=32,
        learning_rate=1e-2,
        num_test=150,
        seed=0,
    )
    floor = LastToken(rhm).bayes_loss(num_samples=400).value[0]
    frequencies = LastToken(rhm, 0).bayes_loss(num_samples=400).value[0]
    assert losses[0] > losses[1]
    assert frequencies > losses[1] > floor
    again, other = (TokenNet(rhm, kind, 16, seed=seed) for seed in (0, 1))
    tokens = torch.zeros(1, 7, dtype=torch.int64)
    assert not torch.equal(again(tokens), other(tokens))
    assert torch.equal(again(tokens), TokenNet(rhm, kind, 16, seed=0)(tokens))
