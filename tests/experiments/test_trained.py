"""Training by local rules and by backpropagation, and the experiments made of it."""

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from experiments.catalogue import local_rules, trained_cnn, trained_mlp, trained_windows
from experiments.data import (
    DataError,
    Pixels,
    augmentation,
    evenly_spaced,
    image_sources,
    in_batches,
    labelled_register,
    named_data,
    rows_of,
)
from experiments.training import (
    SEARCH_SEED,
    Divergence,
    MatchedInTraining,
    Schedule,
    fit_by_rule,
    fit_supervised,
    fitting,
    masked_cosines,
)
from experiments.training.cosines import update_cosines
from linlocal import Pairs
from linlocal.analysis.alignment import align
from linlocal.analysis.local_losses import CLAPP, LocalLoss, Views
from linlocal.analysis.probing import probe_blocks
from linlocal.analysis.results import ResultError
from linlocal.analysis.watching import masked_gradients
from linlocal.seeds import generator_for

BATCH = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


def mlp(depth=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(depth)))


def weights(network):
    return [p.detach().clone() for p in network.parameters()]


def activities(network):
    found = [BATCH]
    for block in network:
        found.append(block(found[-1]))
    return found[1:]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# -- fit -----------------------------------------------------------------------------------------


def test_a_local_step_takes_the_gradient_of_each_blocks_own_loss():
    network, schedule = mlp(), Schedule(1, 0.1)
    twin = copy.deepcopy(network)
    fit_by_rule(network, CLAPP(context="top"), lambda step: BATCH, schedule)
    losses = CLAPP(context="top").build([(6,)] * 3)
    top = twin(BATCH).detach()
    z = BATCH
    for block, loss in zip(twin, losses, strict=True):
        z = block(z.detach())
        parameters = [*block.parameters()]
        gradients = torch.autograd.grad(loss(z, top), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
    torch.optim.AdamW(twin.parameters(), lr=0.1, fused=True).step()
    assert same(weights(network), weights(twin))


@pytest.mark.parametrize(("credit", "equal"), [("local", True), ("backpropagation", False)])
def test_lower_blocks_know_nothing_of_upper_ones_in_local_training_only(credit, equal):
    deep, shallow = mlp(3), mlp(2)
    assert same(weights(deep)[:4], weights(shallow))
    for network in (deep, shallow):
        fit_by_rule(network, Views(), lambda step: BATCH, Schedule(5, 0.01), credit=credit)
    assert same(weights(deep)[:4], weights(shallow)) == equal


def test_backpropagation_trains_the_last_loss_alone():
    network = mlp()
    (loss,), _ = fit_by_rule(
        network, CLAPP(), lambda step: BATCH, Schedule(3, 0.01), credit="backpropagation"
    )
    *_, fresh = CLAPP().build([(6,)] * 3)
    assert not same(weights(loss), weights(fresh))


@pytest.mark.parametrize(("projection", "nearer"), [("least_squares", True), ("random", False)])
def test_least_squares_brings_the_local_to_the_backpropagated_error(projection, nearer):
    rule = CLAPP(context="top", projection=projection, score="softplus")
    network = mlp()
    losses, _ = fit_by_rule(network, rule, lambda step: BATCH, Schedule(100, 1e-3))
    fresh = rule.build([(6,)] * 3)
    fresh[-1].load_state_dict(losses[-1].state_dict())
    before, after = (
        float(align(network, None, each, BATCH).error_cosine[:-1].mean())
        for each in (fresh, losses)
    )
    assert (after > 0.5 > before) if nearer else (after == before)


def test_a_projection_matched_in_training_goes_down_the_squared_distance_of_the_errors():
    rule = MatchedInTraining(CLAPP(context="top", score="softplus", shared=False, pooling=1))
    loss = rule.build([(6,)] * 3, seed=1)[0].double()
    rng = torch.Generator().manual_seed(2)
    here, top, wanted = (torch.randn(16, 6, generator=rng, dtype=torch.float64) for _ in range(3))

    def own_error():
        z = here.clone().requires_grad_()
        (error,) = torch.autograd.grad(loss.activity_loss(z, top), z)
        return error

    def distance():
        return float((own_error() - wanted).square().sum())

    loss.match(here, top, None, wanted)
    z = here.clone().requires_grad_()
    loss(z, top).backward()
    # The network learns from the local loss, as if B were given.
    torch.testing.assert_close(z.grad, own_error())
    for b in loss.parameters():
        slope, (i, j), step = b.grad[1, 2], (1, 2), 1e-6
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                b[i, j] += sign * step
            ends.append(distance())
            with torch.no_grad():
                b[i, j] -= sign * step
        assert float(slope) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_a_learning_rate_falls_as_it_is_told():
    networks = [mlp() for _ in range(3)]
    stopped = Schedule(3, 0.1, rate_of=lambda step: float(step == 0))
    schedules = (Schedule(1, 0.1), stopped, Schedule(3, 0.1))
    for network, schedule in zip(networks, schedules, strict=True):
        fit_by_rule(network, CLAPP(), lambda step: BATCH, schedule)
    assert same(weights(networks[0]), weights(networks[1]))
    assert not same(weights(networks[0]), weights(networks[2]))


def test_the_published_rate_falls_along_a_cosine_in_twenty_epochs():
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=5e-5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=20, eta_min=1e-5)
    for epoch in range(20):
        assert optimiser.param_groups[0]["lr"] == pytest.approx(
            5e-5 * trained_mlp.falling(epoch / 20)
        )
        optimiser.step()
        cosine.step()


def test_cosines_of_matrices_leave_biases_out():
    network, rule = mlp(), CLAPP(context="top", pooling=1)
    losses = rule.build([(6,)] * 3)
    found = trained_mlp.weight_cosines(network, losses, [BATCH, 2 * BATCH])["cosine"]
    by_hand = []
    for views in (BATCH, 2 * BATCH):
        z, outputs = views, []
        for block in network:
            z = block(z)
            outputs.append(z)
        matrices = [block[0].weight for block in network]
        last = losses[-1].activity_loss(outputs[-1], outputs[-1].detach())
        whole = torch.autograd.grad(last, matrices, retain_graph=True)
        below = views
        for block, loss, matrix, g in zip(network, losses, matrices, whole, strict=True):
            here = block(below)
            (own,) = torch.autograd.grad(loss.activity_loss(here, outputs[-1].detach()), matrix)
            by_hand.append(torch.cosine_similarity(own.flatten(), g.flatten(), dim=0).item())
            below = here.detach()
    np.testing.assert_allclose(found, np.reshape(by_hand, (2, 3)).mean(0), rtol=1e-5)
    assert not np.allclose(found, update_cosines(network, losses, [(BATCH,)])["cosine"])


def test_alignment_is_recorded_before_the_first_step_and_after_the_last():
    network = mlp()
    untouched = copy.deepcopy(network)
    _, recorded = fit_by_rule(
        network, CLAPP(), lambda step: BATCH, Schedule(30, 0.01), watched=[(BATCH,)]
    )
    assert recorded["step"].values.tolist() == Schedule(30, 0.01).recorded
    assert recorded["step"][[0, -1]].values.tolist() == [0, 30]
    np.testing.assert_allclose(recorded["cosine"].isel(layer=-1), 1, rtol=1e-6)
    fit_by_rule(untouched, CLAPP(), lambda step: BATCH, Schedule(30, 0.01))
    assert same(weights(network), weights(untouched))  # looking changes nothing


def test_which_steps_are_recorded_is_worked_out_once_a_training(monkeypatch):
    asked = []
    monkeypatch.setattr(fitting, "log_spaced", lambda per_decade: asked.append)
    schedule = Schedule(5, 0.01)
    fit_by_rule(mlp(), CLAPP(), lambda step: BATCH, schedule, watched=[(BATCH,)])
    assert asked == [0, 1, 2, 3, 4]


def test_a_training_that_diverges_says_so():
    with pytest.raises(Divergence, match="lower the learning rate"):
        fit_by_rule(mlp(), Views(), lambda step: BATCH, Schedule(20, 1e20))


def test_supervised_training_learns_labels():
    labels = (BATCH[:, 0] > 0).long()
    network = mlp()
    before = weights(network)
    fit_supervised(network, lambda step: (BATCH, labels), 2, Schedule(200, 0.01), seed=0)
    assert not same(before, weights(network))
    features = network(BATCH).detach().double().numpy()
    design = np.column_stack([features, np.ones(16)])
    # Silent units make it singular, where torch's solver depends on what memory held before.
    solution, *_ = np.linalg.lstsq(design, labels.double().numpy())
    assert ((design @ solution > 0.5) == labels.numpy()).all()


def test_masks_matter_only_where_they_differ_between_samples():
    network = mlp()
    (last,) = CLAPP(score="softplus").build([(6,)])
    random = masked_cosines(network, last, [(BATCH,)])
    np.testing.assert_allclose(random.sel(layer=3), 1, rtol=1e-6)
    assert float(random.isel(layer=0).max()) < 0.999
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    always_on = masked_cosines(network, last, [(BATCH.abs(),)])
    np.testing.assert_allclose(always_on, 1, rtol=1e-6)


def batches(count):
    """Batches of different sizes, with labels."""
    generator = torch.Generator().manual_seed(8)
    sizes = range(8, 8 + 4 * count, 4)
    return [
        (torch.randn(n, 6, generator=generator), torch.arange(n) % 3 + k)
        for k, n in enumerate(sizes)
    ]


class Labelled(LocalLoss):
    """A loss that reads the labels of its batch."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("direction", torch.randn(6, generator=generator))

    def forward(self, here, top, batch=None):
        _, labels = batch
        return (torch.tanh(here @ self.direction) * labels).mean()


def test_update_cosines_are_means_over_all_batches_each_with_its_labels():
    network, watched = mlp(), batches(3)
    losses = nn.ModuleList(Labelled(l) for l in range(3))
    each = [align(network, None, losses, batch[0], batch=batch)["cosine"] for batch in watched]
    assert all(float(abs(a - b).max()) > 1e-3 for a, b in pairwise(each))
    found = update_cosines(network, losses, watched)
    assert [*found] == ["cosine"]
    assert found["cosine"].dims == ("layer",)
    np.testing.assert_allclose(found["cosine"], sum(each) / 3, rtol=1e-12)
    for k, batch in enumerate(watched):
        np.testing.assert_array_equal(update_cosines(network, losses, [batch])["cosine"], each[k])


def test_masked_cosines_are_means_over_all_batches_of_the_cosines_of_each_mask():
    network, watched = mlp(), batches(3)
    (last,) = CLAPP(score="softplus").build([(6,)])
    found = masked_cosines(network, last, watched)
    assert found["mask"].values.tolist() == ["batch", "none"]
    assert found["layer"].values.tolist() == [1, 2, 3]
    for masks in ("batch", "none"):
        for l in range(3):
            cosines = []
            for views, _ in watched:
                a, b = (
                    np.concatenate(
                        [
                            masked_gradients(network, views, lambda z: last(z, z.detach()), kind)[n]
                            .double()
                            .numpy()
                            .ravel()
                            for n in (f"{l}.0.weight", f"{l}.0.bias")
                        ]
                    )
                    for kind in (masks, "sample")
                )
                cosines.append(a @ b / np.sqrt((a @ a) * (b @ b)))
            assert l == 2 or np.ptp(cosines) > 1e-3
            value = float(found.sel(mask=masks, layer=l + 1))
            assert value == pytest.approx(np.mean(cosines), rel=1e-12)


def test_every_epoch_is_a_permutation_of_its_own():
    first, second = (
        torch.cat([rows_of(4 * epoch + k, 12, 3, seed=1) for k in range(4)]) for epoch in range(2)
    )
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert not torch.equal(first, second)
    assert torch.equal(rows_of(0, 12, 3, seed=1), first[:3])
    assert not torch.equal(rows_of(0, 12, 3, seed=2), first[:3])


# -- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "RHM images"])
def test_training_validation_and_test_images_are_disjoint(name):
    images = image_sources.source(name, seed=0)
    parts = [images.train, images.validation, images.test]
    rows = [{image.numpy().tobytes() for image in part} for part, _ in parts]
    assert all(not a & b for a, b in ((rows[0], rows[1]), (rows[0], rows[2]), (rows[1], rows[2])))
    for part, labels in parts:
        assert len(part) == len(labels)
        # Numbered without a gap, and no class more than there are.
        assert set(labels.tolist()) == set(range(images.num_classes))


def test_views_of_rhm_images_keep_the_class():
    images = image_sources.source("RHM images", seed=0)
    views, labels = images.labelled_views(0, 16, seed=3)
    assert torch.equal(views, images.views(0, 16, seed=3))
    known = {
        image.numpy().tobytes(): int(label) for image, label in zip(*images.train, strict=True)
    }
    found = [known.get(view.numpy().tobytes()) for view in views]
    assert found[:16] == labels[:16].tolist()
    assert torch.equal(labels[:16], labels[16:])
    assert not torch.equal(views[:16], views[16:])


def test_held_out_views_are_not_of_training_images():
    images = image_sources.source("RHM images", seed=0)
    views, labels = images.held_out_views(0, 16, seed=3)
    assert len(labels) == len(views)
    first, _ = views.chunk(2)
    held_out = {image.numpy().tobytes() for image in images.validation[0]}
    assert all(view.numpy().tobytes() in held_out for view in first)


def test_digits_are_enlarged():
    assert image_sources.source("digits", 0, size=12).test[0].shape[1:] == (1, 12, 12)


@pytest.mark.parametrize("size", [None, 12])
def test_images_are_made_floats_where_they_are_used_and_are_the_same(size):
    images = image_sources.source("digits", 3, size=size)
    data = labelled_register.load("digits", seed=3)
    whole = torch.as_tensor(data.train).float() / 255
    if size:
        whole = nn.functional.interpolate(whole, (size, size), mode="bilinear", align_corners=True)
    labels = torch.from_numpy(data.train_labels)
    for (part, known), rows in ((images.train, images.rows), (images.validation, images.held_out)):
        assert part.shape == whole[rows].shape
        assert torch.equal(part[:], whole[rows])
        assert torch.equal(part[5], whole[rows][5])
        assert torch.equal(part[torch.tensor([4, 0])], whole[rows][[4, 0]])
        assert len(list(part)) == len(part)
        assert torch.equal(known, labels[rows])
        batches = in_batches((part, known), 100)
        for _ in range(2):  # a probe goes through its batches more than once
            assert len(batches) == len(list(batches)) == -(-len(rows) // 100)
            assert torch.equal(torch.cat([x for x, _ in batches]), whole[rows])
            assert torch.equal(torch.cat([y for _, y in batches]), labels[rows])
    views = images.views(0, 16, seed=3)
    mild = augmentation.mild(whole.shape[-1])
    rows = images.rows[rows_of(0, len(images.rows), 16, 3)]
    seed = int(generator_for("views of a batch", 3, 0).integers(2**62))
    assert torch.equal(views, augmentation.two_views(whole[rows], mild, seed))


def test_every_byte_becomes_the_same_float():
    stored = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    assert torch.equal(Pixels(stored)[:], stored.float() / 255)


def write_cifar10(folder, images=20):
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
        records = rng.integers(0, 256, (images, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(images) % 4
        (folder / name).write_bytes(records.tobytes())


def test_all_seeds_share_the_bytes_of_files(tmp_path):
    write_cifar10(tmp_path)
    first, second = (image_sources.source("cifar10", seed, folder=tmp_path) for seed in (0, 1))
    assert first.known[0]._stored.data_ptr() == second.known[0]._stored.data_ptr()
    assert first.known[0]._stored.dtype == torch.uint8
    assert not torch.equal(first.rows, second.rows)
    whole = torch.as_tensor(labelled_register.load("cifar10", tmp_path).train).float() / 255
    for images in (first, second):
        assert torch.equal(images.train[0][:], whole[images.rows])


def test_a_probe_of_floats_kept_by_others_is_the_same():
    """Experiments with images of their own give floats."""
    images = image_sources.source("digits", 0)
    plain = replace(images, known=(images.known[0][:], images.known[1]))
    assert torch.equal(plain.train[0][:], images.train[0][:])
    assert torch.equal(plain.validation[0][3], images.validation[0][3])


def test_hybrids_mix_an_image_with_the_next():
    views = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 1, 8, 8)
    first, hybrids = image_sources.with_hybrids(views, seed=0).chunk(2)
    assert torch.equal(first, views[:4])
    for k, hybrid in enumerate(hybrids):
        assert set(hybrid.flatten().tolist()) <= {float(k), float((k + 1) % 4)}
    assert len(hybrids.unique()) == 4


def test_named_data_are_taken_from_a_folder_that_has_them(tmp_path):
    assert named_data(None) == ()
    inner = tmp_path / "stl10_binary"
    inner.mkdir()
    # The folder of the archive is found as well as the one above it.
    assert named_data(tmp_path) == named_data(inner) == ("stl10",)
    (tmp_path / "tiny-imagenet-200").mkdir()
    assert named_data(tmp_path) == ("stl10", "tiny_imagenet")
    assert named_data(tmp_path, ("cifar10", "stl10")) == ("stl10",)


@pytest.mark.parametrize("inner", ["nothing", "cifar-10-batches-py", "tiny-imagenet-200"])
def test_a_folder_without_usable_data_is_refused(tmp_path, inner):
    (tmp_path / inner).mkdir()
    with pytest.raises(DataError, match=r"none of the data sets.*cifar-10-batches-bin \(cifar10\)"):
        named_data(tmp_path, ("stl10", "cifar10"))


def test_halves_are_the_pairs_of_the_linear_experiments():
    images = np.random.default_rng(0).standard_normal((5, 28, 28)).astype(np.float32)
    pairs = Pairs.from_image_patches(images, 14)
    upper, lower = trained_mlp.halves(images).double().numpy().reshape(2, 10, 196)
    known = {row.tobytes() for row in pairs.samples}
    assert {row.tobytes() for row in np.concatenate([upper, lower])} == known
    np.testing.assert_array_equal(upper[0], images[0, :14, :14].ravel())
    np.testing.assert_array_equal(lower[0], images[0, 14:, :14].ravel())


def test_a_choice_of_images_on_another_device_keeps_its_labels():
    stored = torch.empty(20, 3, 8, 8, device="meta")  # a device that holds no numbers
    images = Pixels(stored, rows=torch.arange(10))
    few, labels = evenly_spaced((images, torch.arange(10)), 3)
    assert few.shape == (3, 3, 8, 8)
    assert few.device == stored.device
    assert labels.tolist() == [0, 4, 9]


# -- experiments ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    return local_rules.run(local_rules.PRESETS["smoke"])


def test_in_the_top_layer_local_and_global_are_one(table):
    small = trained_mlp.run(trained_mlp.PRESETS["smoke"])
    for result in (small, table):
        cosine = result["cosine"].isel(layer=-1)
        np.testing.assert_allclose(cosine.values[np.isfinite(cosine.values)], 1, rtol=1e-6)
        assert np.isfinite(cosine).mean() > 0.5
    assert float(np.abs(small["cosine"].isel(layer=0)).max()) < 0.999


def test_rules_with_one_loss_at_the_top_share_backpropagation_only(table):
    accuracy = table["block_accuracy"].isel(data=0)
    shared = accuracy.sel(credit="backpropagation")
    for rule, other in local_rules.SAME_AT_THE_TOP.items():
        np.testing.assert_array_equal(shared.sel(rule=rule), shared.sel(rule=other))
        shapes = [(4, 2, 2)] * 5 + [(6, 1, 1)]
        one, two = (local_rules.RULES[name].build(shapes)[-1] for name in (rule, other))
        z = torch.randn(8, 6, 1, 1, generator=torch.Generator().manual_seed(1))
        # A loss of each context is that loss twice, here with the same projection.
        copies = len(one.projections[0])
        for b in one.projections[0]:
            b.load_state_dict(two.projections[0][0].state_dict())
        assert one(z, z) == copies * two(z, z)
        assert copies == (2 if rule == "CLAPP++ both" else 1)
    assert float(np.abs(accuracy.sel(credit="local") - shared).max()) > 0


def test_random_projections_stay_below_the_last_block_only():
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(6)))
    views = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    rule = local_rules.RandomBelow()
    fresh = rule.build([(3, 8, 8)] * 6)
    losses, _ = fit_by_rule(network, rule, lambda step: views, Schedule(3, 0.01))
    stays = [
        same(one.state_dict().values(), other.state_dict().values())
        for one, other in zip(fresh, losses, strict=True)
    ]
    assert stays == [True] * 5 + [False]


def test_rules_can_be_chosen_and_a_wrong_name_is_answered():
    config = local_rules.PRESETS["smoke"]
    chosen = ("CLAPP++ DFB", "VICReg")
    result = local_rules.run(replace(config, rules=chosen, embedded=("digits",)))
    assert result["rule"].values.tolist() == [*chosen]
    assert np.isfinite(result["accuracy"]).all()
    with pytest.raises(ResultError, match="did you mean 'CLAPP"):
        local_rules.run(replace(config, rules=("CLAP++",)))


def test_a_training_that_diverges_counts_as_having_learned_nothing():
    config = replace(
        local_rules.PRESETS["smoke"], rules=("VICReg",), steps=3, learning_rates=(1e25,)
    )
    result = local_rules.run(config)
    assert float(result["accuracy"].max()) == 0
    untrained, supervised = result["reference_accuracy"].isel(data=0, repetition=0)
    assert float(untrained) > 0.1
    assert float(supervised) == 0


def test_the_seed_decides_the_trained_network():
    config = trained_cnn.PRESETS["smoke"]
    first, again, other = (
        trained_cnn.run(replace(config, repetitions=1, seed=seed)) for seed in (0, 0, 1)
    )
    assert first.identical(again)
    assert not np.array_equal(first["masked_cosine"], other["masked_cosine"])


def test_windows_choose_their_rate_without_the_test_images():
    config = replace(trained_windows.PRESETS["smoke"], judged=50)
    network = trained_windows.encoder(config, len(trained_windows.BLOCKS), 0)
    searching = trained_windows.probed(config, network, SEARCH_SEED)
    assert set(searching.data_vars) == {"validation_accuracy"}
    reported = trained_windows.probed(config, network, 0)
    assert set(reported.data_vars) == {"validation_accuracy", "accuracy", "joint_accuracy"}
    data = image_sources.source(config.images, 0)
    for part, images, found in (
        ("test", data.test, reported["accuracy"][-1]),
        ("validation", data.validation, reported["validation_accuracy"]),
    ):
        few = [in_batches(evenly_spaced(each, 50)) for each in (data.train, images)]
        read = probe_blocks(network, trained_windows.BLOCKS, few[0], {part: few[1]}, seed=0)
        assert float(found) == float(read["accuracy"].sel(part=part)[-2])


def test_a_window_that_diverges_has_learned_nothing():
    config = replace(trained_windows.PRESETS["smoke"], steps=3)
    found = trained_windows.trained(config, "VICReg", 2, 1e30, 0)
    assert float(found["joint_accuracy"]) == 0
    assert float(found["validation_accuracy"]) == 0
    assert found["cosine"].sel(time="start").notnull().all()
    assert found["cosine"].sel(time="end").isnull().all()
