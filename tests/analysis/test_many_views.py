"""More views than two, crops of several sizes, and teachers: recorded against detached programs.

The oracle knows nothing of passes: it runs every block on a detached copy of each view's input, by
itself, with losses that are written here, and backpropagates through the whole network.
"""

from copy import deepcopy
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import linlocal as ll
from linlocal import rules
from linlocal.analysis import AlignmentRecorder, LocalTrainer, align
from linlocal.analysis.local_losses import CLAPP, GatheredRule, ManyViewsRule, NetworkRule

TOLERANCE = 1e-10
ROWS, CHANNELS = 5, (3, 4, 5, 6)


def network(norm=False):
    torch.manual_seed(1)
    blocks = [
        nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b) if norm else nn.Identity(), nn.Tanh()
        )
        for a, b in pairwise(CHANNELS)
    ]
    return nn.Sequential(*blocks).double()


def images(count, sides):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(ROWS, 3, 8, 8, generator=generator, dtype=torch.float64)
    found = []
    for k in range(count):
        view = base + 0.3 * torch.randn(base.shape, generator=generator, dtype=torch.float64)
        found.append(view[..., : sides[k], : sides[k]].contiguous())
    return found


def pulled(first, second, to=None):
    """Minus the cosine of averaged maps, and a variance that holds them apart."""
    a, b = (z.mean((2, 3)) for z in (first, second))
    spread = sum(F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in (a, b))
    return ((a - b) ** 2).mean() * 25 + 25 * spread + _off(a) + _off(b)


def _off(z):
    """The covariance term of VICReg."""
    centred = z - z.mean(0)
    k = centred.T @ centred / (len(z) - 1)
    return (k - torch.diag(k.diagonal())).square().sum() / z.shape[1]


RULE = NetworkRule(rule=rules.VICReg(), pooling="global")


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


def by_hand(model, passes, taught, pairs, global_pairs, weight=1.0):
    """Cosines and norms per block: each block alone on detached inputs; then all at once."""
    model, teacher = deepcopy(model), deepcopy(taught[0])
    sizes = [len(p) for p in passes]
    local, inputs = [], [torch.cat(p) for p in passes]
    keys = [torch.cat(p) for p in taught[1]]
    through = list(inputs)
    for block, above in zip(model, teacher, strict=True):
        with torch.no_grad():
            keys = [above(k) for k in keys]
        outputs = [block(x.detach()) for x in inputs]
        views = [v for z, n in zip(outputs, sizes, strict=True) for v in z.chunk(n)]
        views += [v for k, p in zip(keys, taught[1], strict=True) for v in k.chunk(len(p))]
        value = weight * sum(pulled(views[v], views[w]) for v, w in pairs)
        local.append(flat(torch.autograd.grad(value, [*block.parameters()], retain_graph=True)))
        inputs = outputs
    tops = [model(x) for x in through]
    views = [v for z, n in zip(tops, sizes, strict=True) for v in z.chunk(n)]
    views += [v for k, p in zip(keys, taught[1], strict=True) for v in k.chunk(len(p))]
    value = weight * sum(pulled(views[v], views[w]) for v, w in global_pairs)
    found = torch.autograd.grad(value, [*model.parameters()])
    global_ = [
        flat(found[4 * l : 4 * l + 4]) if len(found) > 6 else flat(found[2 * l : 2 * l + 2])
        for l in range(len(model))
    ]
    cosine = [F.cosine_similarity(a, b, 0).item() for a, b in zip(local, global_, strict=True)]
    return cosine, [a.norm().item() for a in local], [b.norm().item() for b in global_]


# For each way: views per pass, their sides, views per pass of a teacher.
WAYS = {
    "three in one pass": ((3,), [8] * 3, ()),
    "a pass for each of three": ((1, 1, 1), [8] * 3, ()),
    "two and one": ((2, 1), [8] * 3, ()),
    "small crops": ((2, 3), [8, 8, 4, 4, 4], ()),
    "momentum encoder": ((1,), [8] * 2, (1,)),
    "momentum encoder of both": ((1, 1), [8] * 4, (1, 1)),
    "momentum encoder of large crops": ((2, 3), [8, 8, 4, 4, 4, 8, 8], (2,)),
}


def grouped(views, sizes):
    views = iter(views)
    return [[next(views) for _ in range(n)] for n in sizes]


def recorded(model, teacher, passes, taught, rule, pairs, first="network", **options):
    """One step of a loop that runs these passes, the loss of these pairs, and one backward pass."""
    if taught:
        options |= {"teacher": teacher, "teacher_views": [len(p) for p in taught]}
    recorder = AlignmentRecorder(
        model, rule=rule, every=1, views=tuple(len(p) for p in passes), **options
    )

    def keys():
        with torch.no_grad():
            return [v for p in taught for v in teacher(torch.cat(p)).chunk(len(p))]

    with recorder.step():
        before = keys() if first == "teacher" else []
        outputs = [v for p in passes for v in model(torch.cat(p)).chunk(len(p))]
        outputs += before or keys()
        sum(pulled(outputs[v], outputs[w]) for v, w in pairs).backward()
    return recorder.dataset().isel(step=0)


def assert_same(found, expected):
    for name, values in zip(("cosine", "local_norm", "global_norm"), expected, strict=True):
        np.testing.assert_allclose(found[name], values, rtol=TOLERANCE, atol=TOLERANCE)


def moved(model):
    """An average of weights: near the network, but not the network."""
    teacher = deepcopy(model).requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    for p in teacher.parameters():
        p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return teacher


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_those_of_detached_blocks(way, norm):
    views, sides, teacher_views = WAYS[way]
    own, count = sum(views), sum(views) + sum(teacher_views)
    model = network(norm)
    teacher = moved(model)
    seen = images(count, sides)
    passes, taught = grouped(seen, views), grouped(seen[own:], teacher_views)
    pairs = [*combinations(range(count), 2)]
    if taught:
        pairs = [(v, w) for v in range(own) for w in range(own, count)]
    numbers = tuple((v + 1, w + 1) for v, w in pairs)
    rule = ManyViewsRule(rule=RULE, views=count, pairs=numbers)
    expected = by_hand(model, passes, (teacher, taught), pairs, pairs)
    assert_same(recorded(deepcopy(model), teacher, passes, taught, rule, pairs), expected)
    # The last block has the loss that is backpropagated; below it the two differ.
    assert abs(expected[0][-1] - 1) < TOLERANCE
    assert max(expected[0][:-1]) < 0.99
    against = recorded(deepcopy(model), teacher, passes, taught, rule, pairs[:1], against="rule")
    assert_same(against, expected)
    if taught:
        first = recorded(deepcopy(model), teacher, passes, taught, rule, pairs, "teacher")
        assert_same(first, expected)


def moco(model, teacher, x):
    """The loss of a query against its key."""
    with torch.no_grad():
        key = teacher(x[1])
    return pulled(model(x[0]), key)


TWO = {"rule": RULE, "every": 1, "views": (1,), "teacher_views": (1,)}


def test_a_network_that_is_its_own_teacher():
    model, x = network(), images(2, [8, 8])
    recorder = AlignmentRecorder(model, teacher=model, **TWO)
    with recorder.step():
        moco(model, model, x).backward()
    expected = by_hand(network(), [x[:1]], (network(), [x[1:]]), [(0, 1)], [(0, 1)])
    assert_same(recorder.dataset().isel(step=0), expected)


def test_a_teacher_inside_the_network_of_the_loop():
    """As in the code of He et al. 2020: one module holds both encoders and gives the loss."""

    class MoCo(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = network()
            self.key = moved(self.query)

        def forward(self, x):
            return moco(self.query, self.key, x)

    loop, x = MoCo(), images(2, [8, 8])
    recorder = AlignmentRecorder(loop.query, teacher=loop.key, **TWO)
    with recorder.step():
        loop(x).backward()
    expected = by_hand(network(), [x[:1]], (moved(network()), [x[1:]]), [(0, 1)], [(0, 1)])
    assert_same(recorder.dataset().isel(step=0), expected)


@pytest.mark.parametrize("order", ["stuTSU", "sSTtuU", "stSTuU"])
@pytest.mark.parametrize("inference", [False, True])
def test_batches_and_their_teachers_may_come_in_any_order(order, inference):
    """Small letters are passes of the network for three batches, capitals those of the teacher."""
    batches = [[z + k for z in images(2, [8, 8])] for k in range(3)]
    model = network()
    teacher = moved(model)
    recorder = AlignmentRecorder(model, teacher=teacher, **TWO)
    own, keys = [], []
    with recorder.step(weight=1 / 3, micro_batches=3):
        for letter in order:
            if letter.islower():
                own.append(model(batches[len(own)][0]))
            else:
                with torch.inference_mode() if inference else torch.no_grad():
                    keys.append(teacher(batches[len(keys)][1]))
        sum(pulled(q, k.clone()) / 3 for q, k in zip(own, keys, strict=True)).backward()
    parts = []
    for first, second in batches:
        plain = network()
        (moco(plain, moved(plain), (first, second)) / 3).backward()
        parts.append([p.grad for p in plain.parameters()])
    summed = [sum(grads) for grads in zip(*parts, strict=True)]
    found = recorder.dataset().isel(step=0)
    for l in range(3):
        expected = flat(summed[2 * l : 2 * l + 2]).norm()
        np.testing.assert_allclose(found.global_norm[l], expected, rtol=TOLERANCE)
    np.testing.assert_allclose(found.cosine[-1], 1, atol=TOLERANCE)


def test_the_loss_of_every_pair_is_that_of_theory():
    """`Pairs.from_many_views`, with the identity as B, which all pairs share."""
    rule = ll.Rule("contrast", ll.losses.InfoNCE(), projection="identity")
    widths, rng = (6, 5, 4), np.random.default_rng(0)
    net = ll.DeepLinear.uniform(list(widths), seed=1)
    views = [rng.standard_normal((7, 6)) for _ in range(3)]
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
    model = nn.Sequential(*layers).double()
    for layer, weight in zip(model, net.weights, strict=True):
        layer.weight.data = torch.tensor(np.array(weight))
    for kind in ("all", "star"):
        pairs = ll.Pairs.from_many_views(views, num_negatives=6, directions=kind)
        many = ManyViewsRule(rule=NetworkRule(rule=rule, pooling=1), views=3, pairs=kind)
        found = align(model, None, many, *map(torch.tensor, views))
        compared = ll.compare(net, pairs, rule)
        for name in ("cosine", "norm_ratio", "relative_error"):
            np.testing.assert_allclose(found[name], compared[name], atol=TOLERANCE, err_msg=name)
        assert found.cosine[0] < 0.99


def test_two_views_are_the_rule_itself():
    x, model = images(2, [8, 8]), network()
    for rule in (RULE, CLAPP(context="top"), rules.SCFF()):
        one = align(model, None, rule, *x)
        two = align(model, None, ManyViewsRule(rule=rule, views=2), *x)
        np.testing.assert_allclose(two.cosine, one.cosine, atol=TOLERANCE)
        np.testing.assert_allclose(two.local_norm, one.local_norm, atol=TOLERANCE)


def test_crops_run_in_passes_of_one_size_each():
    x, model = images(5, [8, 8, 4, 4, 4]), network(norm=True)
    rule = ManyViewsRule(rule=RULE, views=5, pairs="star")
    pairs = [(0, w) for w in range(1, 5)]
    expected = by_hand(model, [x[:2], x[2:]], (model, []), pairs, pairs)
    assert_same(align(model, None, rule, *x), expected)

    def own_loss(large, small):
        views = [*large.chunk(2), *small.chunk(3)]
        return sum(pulled(views[v], views[w]) for v, w in pairs)

    assert_same(align(model, None, rule, *x, global_loss=own_loss), expected)


@pytest.mark.parametrize("way", ["a pass for each of three", "small crops", "momentum encoder"])
def test_a_window_of_all_blocks_is_backpropagation(way):
    views, sides, teacher_views = WAYS[way]
    own, count = sum(views), sum(views) + sum(teacher_views)
    seen, model = images(count, sides), network()
    pairs = [(v, w) for v, w in combinations(range(count), 2) if v < own]
    numbers = [(v + 1, w + 1) for v, w in pairs]
    rule = ManyViewsRule(rule=RULE, views=count, pairs=numbers)
    passes, taught = grouped(seen, views), grouped(seen[own:], teacher_views)
    for window in (2, 3):
        found = recorded(deepcopy(model), moved(model), passes, taught, rule, pairs, window=window)
        assert (abs(found.cosine - 1) < TOLERANCE).values.tolist() == [window == 3, True, True]


def test_parts_of_all_views_add_up():
    x, model = images(5, [8, 8, 4, 4, 4]), network()
    rule, pairs = ManyViewsRule(rule=RULE, views=5), [*combinations(range(5), 2)]
    passes = grouped(x, (2, 3))
    found = recorded(deepcopy(model), None, passes, [], rule, pairs, view_parts=True)
    assert found.view.values.tolist() == [1, 2, 3, 4, 5]
    whole = found.cosine * found.norm_ratio
    np.testing.assert_allclose(found.view_part.sum("view"), whole, atol=TOLERANCE)
    # The part of a view is the gradient of the loss where all other views are constant.
    for v in range(5):
        judge = rule.build([(4, 8, 8), (5, 8, 8), (6, 8, 8)])[0]
        outputs = [model[0](torch.cat(p)) for p in passes]
        held = [z.detach().clone() for z in outputs]
        at, row = (0, v) if v < 2 else (1, v - 2)
        rows = slice(row * ROWS, (row + 1) * ROWS)
        held[at] = torch.cat([held[at][: rows.start], outputs[at][rows], held[at][rows.stop :]])
        local = flat(torch.autograd.grad(judge(tuple(held), None), [*model[0].parameters()]))
        tops = [model(torch.cat(p)) for p in passes]
        views = [view for z, p in zip(tops, passes, strict=True) for view in z.chunk(len(p))]
        loss = sum(pulled(views[a], views[b]) for a, b in pairs)
        global_ = flat(torch.autograd.grad(loss, [*model[0].parameters()]))
        part = (local @ global_ / (global_ @ global_)).item()
        np.testing.assert_allclose(found.view_part[0, v], part, atol=TOLERANCE)


class Siamese(nn.Module):
    """Runs its encoder for each view, as SimSiam does."""

    def __init__(self):
        super().__init__()
        self.encoder = network()

    def forward(self, first, second):
        return self.encoder(first), self.encoder(second)


def test_a_module_that_runs_its_network_for_each_view():
    model, x = Siamese(), images(2, [8, 8])
    names = [f"encoder.{l}" for l in range(3)]
    outer = AlignmentRecorder(model, names, rule=RULE, every=1)
    message = r'give the network inside it.*views="separate"'
    with pytest.raises(RuntimeError, match=message), outer.step():
        model(*x)
    inner = AlignmentRecorder(model.encoder, rule=RULE, every=1, views="separate")
    with inner.step():
        pulled(*model(*x)).backward()
    expected = by_hand(network(), [x[:1], x[1:]], (model.encoder, []), [(0, 1)], [(0, 1)])
    assert_same(inner.dataset().isel(step=0), expected)


# -- what is not as declared -----------------------------------------------------------------------


class Parts(nn.Sequential):
    """A network with a method of its own beside its forward pass."""

    def features(self, x):
        return self[1](self[0](x))


def loop_of(name, model, teacher, x):
    first, second, third = x
    if name == "a third pass":
        return pulled(model(first), model(second)) + model(third).mean()
    if name == "an unrelated pass first":
        model(third)
        return pulled(model(first), model(second))
    if name == "a pass whose loss never came back":
        return pulled(model(first), model(second).detach())
    if name == "a view without gradients":
        return moco(model, model, x)
    if name == "eval mode":
        one = model(first)
        return pulled(one, model.eval()(second))
    if name == "a method of its own":
        return pulled(model(first), model(second)) + model.features(third).mean()
    if name == "a part of its own":
        return pulled(model(first), model(second)) + model[0](third).mean()
    raise AssertionError(name)


REFUSED = {
    "a third pass": "forward pass 3 .* declared to have 2.*views=",
    "an unrelated pass first": r"forward pass 3 .* declared to have 2.*torch\.no_grad",
    "a pass whose loss never came back": r"pass 2 of 2 .* teacher=model, teacher_views=\(1,\)",
    "a view without gradients": r"1 forward passes with gradients the second view .*teacher=\.\.\.",
    "eval mode": "A Sequential of the network is in eval mode, and was in train mode",
    "a method of its own": "Block '[01]' also ran outside",
    "a part of its own": "Block '0' also ran outside",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_declared_is_refused_and_a_step_after_it_is_right(name):
    model, x = Parts(*network()), images(3, [8] * 3)
    recorder = AlignmentRecorder(model, rule=RULE, every=1, views="separate")
    with pytest.raises(RuntimeError, match=REFUSED[name]), recorder.step():
        loop_of(name, model, None, x).backward()
    model.train()
    with recorder.step():
        pulled(model(x[0]), model(x[1])).backward()
    expected = by_hand(network(), [x[:1], x[1:2]], (model, []), [(0, 1)], [(0, 1)])
    assert_same(recorder.dataset().isel(step=-1), expected)


@pytest.mark.parametrize("name", ["a method of its own", "a part of its own"])
def test_a_part_that_runs_without_gradients_does_not_count(name):
    model, x = Parts(*network()), images(3, [8] * 3)
    recorder = AlignmentRecorder(model, rule=RULE, every=1, views="separate")
    with recorder.step():
        loss = pulled(model(x[0]), model(x[1]))
        with torch.no_grad():
            model.features(x[2])
        monitored = model[0](x[2]).mean()  # with gradients, of which nothing is learned
        loss.backward()
    assert monitored.requires_grad
    expected = by_hand(network(), [x[:1], x[1:2]], (model, []), [(0, 1)], [(0, 1)])
    assert_same(recorder.dataset().isel(step=-1), expected)


def teacher_loop(name, model, teacher, x):
    first, second, third = x
    if name == "with gradients":
        return pulled(model(first), teacher.requires_grad_()(second))
    loss = moco(model, teacher, x)
    with torch.no_grad():
        if name == "one pass more":
            teacher(third)
        if name == "another mode":
            teacher.eval()(third)
        if name == "none":
            return loss
    return loss


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("with gradients", {}, RuntimeError, r"teacher ran with gradients.*torch\.no_grad"),
        ("one pass more", {}, RuntimeError, "pass 2 of the teacher .* declared to have 1"),
        (
            "another mode",
            {"teacher_views": (1, 1), "rule": ManyViewsRule(rule=RULE, views=3)},
            RuntimeError,
            "of the teacher is in eval mode",
        ),
        (
            "none",
            {"teacher_views": (1, 1), "rule": ManyViewsRule(rule=RULE, views=3)},
            RuntimeError,
            "1 forward passes of the network and 1 of the teacher",
        ),
        ("none", {"teacher_views": (2,)}, ValueError, "1 and 2 of its views"),
        ("none", {"views": "stacked"}, ValueError, "for 2 and 1 of its views"),
    ],
)
def test_a_teacher_that_is_not_as_declared_is_refused(name, options, error, message):
    model = network()
    teacher = moved(model)
    recorder = AlignmentRecorder(model, teacher=teacher, **(TWO | options))
    with pytest.raises(error, match=message), recorder.step():
        teacher_loop(name, model, teacher, images(3, [8] * 3)).backward()


def backward_first(model, x):
    model(x[0]).square().mean().backward()
    with torch.no_grad():
        model(x[1])


def test_a_teacher_after_the_backward_pass_is_refused():
    model, x = network(), images(2, [8, 8])
    recorder = AlignmentRecorder(model, teacher=model, **TWO)
    with (
        pytest.raises(RuntimeError, match=r"those of a teacher.*then the backward"),
        recorder.step(),
    ):
        backward_first(model, x)


def late(model, x):
    first = model(torch.cat(x))
    first.mean().backward(retain_graph=True)
    second = model(torch.cat(x))
    (first.square().mean() + second.mean()).backward()


def test_a_backward_pass_that_comes_back_to_an_earlier_batch_is_refused():
    model = network()
    recorder = AlignmentRecorder(model, rule=RULE, every=1)
    with (
        pytest.raises(RuntimeError, match="back to a batch after the forward pass of the next"),
        recorder.step(micro_batches=2),
    ):
        late(model, images(2, [8, 8]))


def test_another_network_is_no_teacher():
    other = nn.Sequential(nn.Conv2d(3, 6, 3))
    recorder = AlignmentRecorder(network(), teacher=other, **TWO)
    with (
        pytest.raises(ValueError, match="A teacher has the blocks of the network"),
        recorder.step(),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_views": None}, "declare both the network"),
        ({"teacher": None}, "declare both the network"),
        ({"terms": True, "against": "rule"}, "two views of the network itself"),
        ({"views": ()}, "views must hold at least one"),
    ],
)
def test_declarations_that_do_not_fit_are_refused(options, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        AlignmentRecorder(model, **(TWO | {"teacher": model} | options))


def test_a_rule_of_two_views_takes_no_third():
    x, model = images(3, [8] * 3), network()
    with pytest.raises(ValueError, match=r"2 views, and a batch .* 3.*ManyViewsRule"):
        align(model, None, RULE, *x)
    with pytest.raises(ValueError, match=r"3 views, and a batch .* 2"):
        align(model, None, ManyViewsRule(rule=RULE, views=3), *x[:2])
    with pytest.raises(ValueError, match="cannot compare: take ManyViewsRule"):
        align(model, None, RULE, *images(2, [8, 4]))
    with pytest.raises(ValueError, match="3 views, and trainers take batches of two"):
        LocalTrainer(model, None, ManyViewsRule(rule=RULE, views=3), shape=(3, 8, 8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ManyViewsRule(rule=RULE, views=1), "views"),
        (lambda: ManyViewsRule(rule=RULE, views=3, pairs="some"), '"all", "star" or pairs'),
        (lambda: ManyViewsRule(rule=RULE, views=3, pairs=[(1, 4)]), "views of 1 to 3"),
        (lambda: ManyViewsRule(rule=RULE, views=3, pairs=[(1, 2), (2, 1)]), "different pairs"),
        (lambda: ManyViewsRule(rule=RULE, views=3, pairs=[(1, 1)]), "views of 1 to 3"),
        (
            lambda: ManyViewsRule(rule=rules.ForwardForward(), views=3).build([(4,)]),
            "no loss of two views",
        ),
        (
            lambda: ManyViewsRule(rule=CLAPP(context_pooling=1), views=3).build([(4,)]),
            "leave context_pooling out",
        ),
        (
            lambda: GatheredRule(ManyViewsRule(rule=RULE, views=3)).build([(4,)]),
            "gather",
        ),
    ],
)
def test_rules_that_have_no_pairs_of_views_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_views_that_pool_to_other_sizes_are_refused():
    x, model = images(3, [8, 8, 1]), network()
    rule = ManyViewsRule(rule=CLAPP(), views=3)
    with pytest.raises(ValueError, match='take pooling="global"'):
        align(model, None, rule, *x)
