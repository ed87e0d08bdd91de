"""Laws of tasks made of grammars and of supervised training on them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.training import (
    NetworkRecipe,
    Task,
    TokenNet,
    accuracy,
    class_labels,
    fit_labels,
    last_token_losses,
    layer_activities,
    learn_task,
    one_hot_leaves,
)
from experiments.training.hierarchy_tasks import LARGEST_TEST, LARGEST_VALIDATION
from linlocal.analysis import results
from linlocal.rhm import RandomHierarchyModel
from linlocal.rhm.tokens import LastToken

TINY = Task(num_symbols=4, num_synonyms=2, num_levels=2, multiple=1.5, seed=0)
RECIPE = NetworkRecipe(width=32, learning_rate=1e-2, steps=400)


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


def fitted(recipe=RECIPE, seed=0, task=TINY):
    inputs, labels = data(task)
    net = recipe.network(task.rhm, seed)
    fit = fit_labels(net, recipe, inputs, labels, seed)
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
    recipe = replace(RECIPE, steps=1000)
    found = learn_task(task, recipe, seed=0)
    assert found["test_accuracy"] > 0.95
    assert found["validation_accuracy"] > 0.95
    assert found["steps"] < recipe.steps  # it stops when the batches are fitted
    assert learn_task(task, replace(recipe, steps=1), seed=0)["test_accuracy"] < 0.6


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
    assert fit.steps < recipe.steps
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
