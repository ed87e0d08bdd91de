"""Laws of masked backpropagation, against loops written by hand and against autograd."""

import copy
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from experiments.networks import encoders
from linlocal.analysis.watching import masked_gradients

MODES = ("sample", "batch", "none")
EXACT = {"rtol": 0, "atol": 1e-12}


def sum_of_squares(output):
    return (output - 1.0).square().sum() / len(output)


def mlp(linear=False):
    torch.manual_seed(0)
    between = nn.Identity if linear else nn.ReLU
    return nn.Sequential(
        nn.Linear(5, 7), between(), nn.Linear(7, 6), between(), nn.Linear(6, 4), between(),
        nn.Linear(4, 3),
    ).double()  # fmt: skip


class Residual(nn.Module):
    """Residual connections, BatchNorm, both poolings, an in-place ReLU and a sum in place."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.outer = nn.Conv2d(4, 4, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        x = F.max_pool2d(self.relu(self.stem(x)), 2)
        y = self.outer(F.relu(self.norm(self.inner(x))))
        y += self.shortcut(x)
        y = self.relu(y) + x
        return self.head(F.dropout(F.adaptive_avg_pool2d(y, 1).flatten(1), 0.3, self.training))


def residual():
    torch.manual_seed(1)
    return Residual().double()


def batch(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


CASES = pytest.mark.parametrize(
    ("make", "inputs"),
    [(mlp, batch(8, 5)), (residual, batch(8, 2, 8, 8))],
    ids=["MLP", "residual CNN"],
)


def by_hand(model, x, masks):
    """The recursion of the module's docstring, sample by sample in numpy."""
    layers = [m for m in model if isinstance(m, nn.Linear)]
    weights = [m.weight.detach().numpy() for m in layers]
    activity, masks_of = [x.numpy()], []
    for layer, weight in zip(layers, weights, strict=True):
        a = activity[-1] @ weight.T + layer.bias.detach().numpy()
        top = layer is layers[-1]
        masks_of.append(np.ones_like(a) if top else (a > 0).astype(float))
        activity.append(a if top else a * masks_of[-1])
    error = 2 * (activity[-1] - 1.0) / len(x)
    gradients = {}
    for l in reversed(range(len(weights))):
        mask = masks_of[l]
        name = next(name for name, m in model.named_modules() if m is layers[l])
        gradients[f"{name}.weight"] = sum(
            np.outer(mask[k] * error[k], activity[l][k]) for k in range(len(x))
        )
        gradients[f"{name}.bias"] = sum(mask[k] * error[k] for k in range(len(x)))
        average = sum(mask) / len(x)
        error = np.array([
            weights[l].T @ ({"sample": mask[k], "batch": average, "none": 1.0}[masks] * error[k])
            for k in range(len(x))
        ])  # fmt: skip
    return gradients


@pytest.mark.parametrize("masks", MODES)
def test_the_recursion_written_by_hand_gives_the_same(masks):
    model, x = mlp(), batch(8, 5)
    found, expected = masked_gradients(model, x, sum_of_squares, masks), by_hand(model, x, masks)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient.numpy(), expected[name], **EXACT)


@CASES
def test_masks_of_the_sample_are_backpropagation(make, inputs):
    model = make()
    torch.manual_seed(7)
    found = masked_gradients(model, inputs, sum_of_squares, "sample")
    torch.manual_seed(7)
    sum_of_squares(model(inputs)).backward()
    for name, parameter in model.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[name], expected, **EXACT)


@CASES
@pytest.mark.parametrize("masks", ["batch", "none"])
def test_other_masks_change_layers_below_and_not_the_last(make, inputs, masks):
    model = make().eval()
    found, exact = (masked_gradients(model, inputs, sum_of_squares, m) for m in (masks, "sample"))
    names = [name for name in found if name != "unused"]
    first, last = names[0], names[-2]
    assert (found[first] - exact[first]).norm() > 0.05 * exact[first].norm()
    torch.testing.assert_close(found[last], exact[last], **EXACT)


@CASES
def test_the_mean_over_one_sample_is_that_sample(make, inputs):
    model = make().eval()
    exact, averaged, removed = (
        masked_gradients(model, inputs[:1], sum_of_squares, masks) for masks in MODES
    )
    for name, gradient in exact.items():
        torch.testing.assert_close(averaged[name], gradient, **EXACT)
    first = next(name for name in exact if name != "unused")
    assert (removed[first] - exact[first]).norm() > 0.05 * exact[first].norm()


def test_without_nonlinearity_there_is_nothing_to_mask():
    model, x = mlp(linear=True), batch(8, 5)
    exact, *others = (masked_gradients(model, x, sum_of_squares, masks) for masks in MODES)
    for other in others:
        for name, gradient in exact.items():
            assert gradient.norm() > 0
            torch.testing.assert_close(other[name], gradient, **EXACT)


@pytest.mark.parametrize("masks", MODES)
def test_the_forward_pass_and_all_state_stay_as_they_were(masks):
    model, x = residual(), batch(8, 2, 8, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    torch.manual_seed(3)
    state = torch.get_rng_state()
    masked_gradients(model, x, lambda out: seen.append(out.detach()) or out.sum(), masks)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(seen[0], model(x))


def test_frozen_parameters_are_left_out_and_pass_errors_on():
    model, x = mlp(), batch(8, 5)
    everything = masked_gradients(model, x, sum_of_squares)
    model[2].requires_grad_(False)
    rest = masked_gradients(model, x, sum_of_squares)
    assert everything.keys() - rest.keys() == {"2.weight", "2.bias"}
    for name, gradient in rest.items():
        assert torch.equal(gradient, everything[name])


class Forms(nn.Module):
    """Three layers with a function in place of ReLU."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)])
        self.function = function

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = self.function(layer(x))
        return self.layers[-1](x)


def forms(function):
    model = Forms(function).double()
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.mul_(3)
    return model


SAME_AS_RELU = {
    "method": torch.Tensor.relu,
    "out of torch": torch.relu,
    "in place": torch.relu_,
    "module in place": nn.ReLU(inplace=True),
    "clamp": lambda x: x.clamp(min=0),
    "clamp in place": lambda x: x.clamp_(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "clamp by a tensor": lambda x: torch.clamp(x, min=torch.zeros(())),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "threshold in place": nn.Threshold(0, 0, inplace=True),
    "hardtanh": nn.Hardtanh(0, 1e9),
    "hardtanh in place": nn.Hardtanh(0, 1e9, inplace=True),
    "vmap": lambda x: torch.func.vmap(torch.relu)(x),
    "before one without a gradient": lambda x: (x.relu(), x.detach().relu())[0],
    "after one without a gradient": lambda x: (x.detach().relu(), x.relu())[1],
    "before one in place": lambda x: (x.relu(), x.detach().clone().clamp_(min=0))[0],
    "checkpoint": lambda x: checkpoint(F.relu, x, use_reentrant=False),
}


@pytest.mark.parametrize("masks", MODES)
@pytest.mark.parametrize("name", SAME_AS_RELU)
def test_every_way_to_write_relu_gives_the_same(name, masks):
    x = batch(8, 5)
    found = masked_gradients(forms(SAME_AS_RELU[name]), x, sum_of_squares, masks)
    expected = masked_gradients(forms(F.relu), x, sum_of_squares, masks)
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, **EXACT)


class CutAtModules(nn.Module):
    """Returns a leaf in place of the activity, which cuts the graph into one piece for each."""

    def __init__(self, activation, cuts):
        super().__init__()
        self.activation, self.cuts = activation, cuts

    def forward(self, x):
        z = self.activation(x.clone()).detach().requires_grad_()
        self.cuts.append((self.activation, x, z))
        return z


def piece_by_piece(model, x, loss_fn, masks):
    """Masked backpropagation where every activation is a module: the second implementation."""
    model, cuts = copy.deepcopy(model), []
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.ReLU | nn.ReLU6):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, CutAtModules(module, cuts))
    loss = loss_fn(model(x))
    named = dict(model.named_parameters())
    gradients = {name: torch.zeros_like(p) for name, p in named.items()}
    errors = [torch.zeros_like(z) for _, _, z in cuts]

    def add(totals, of, by, weight=None):
        found = torch.autograd.grad(of, by, weight, retain_graph=True, allow_unused=True)
        for total, part in zip(totals, found, strict=True):
            total += 0 if part is None else part

    add(gradients.values(), loss, [*named.values()])
    add(errors, loss, [z for _, _, z in cuts])
    for l in reversed(range(len(cuts))):
        activation, a, _ = cuts[l]
        mask = (a > 0) & ((a < 6) | isinstance(activation, nn.ReLU))
        mask = mask.to(a.dtype).detach()
        below = {"sample": mask, "batch": mask.mean(0), "none": 1.0}[masks]
        add(gradients.values(), a, [*named.values()], mask * errors[l])
        if l:
            add(errors[:l], a, [z for _, _, z in cuts[:l]], below * errors[l])
    return gradients


def torchvision():
    return encoders.import_torchvision().models


OF_THE_FIELD = {
    "BasicBlock": lambda: torchvision().resnet.BasicBlock(3, 3),
    "Bottleneck": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 1), torchvision().resnet.Bottleneck(8, 2), nn.Conv2d(8, 2, 1)
    ),
    "VGG": lambda: torchvision().vgg.make_layers([4, "M", 6, 6, "M", 4]),
    "VGG with BatchNorm": lambda: torchvision().vgg.make_layers([4, "M", 6, 6, "M", 4], True),
    "MobileNetV2": lambda: nn.Sequential(
        torchvision().mobilenetv2.InvertedResidual(3, 3, 1, 2),
        torchvision().mobilenetv2.InvertedResidual(3, 4, 2, 2),
    ),
    "DenseNet": lambda: torchvision().densenet._DenseBlock(2, 3, 2, 4, 0.0),
    "ShuffleNetV2": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 1), torchvision().shufflenetv2.InvertedResidual(4, 4, 1)
    ),
    "SqueezeNet": lambda: torchvision().squeezenet.Fire(3, 2, 4, 4),
    "ReLU6": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU6(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU6(),
        nn.Conv2d(4, 2, 3),
    ),
    "transposed": lambda: nn.Sequential(
        nn.ConvTranspose2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.PixelUnshuffle(1),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReLU(), nn.ReflectionPad2d(1),
        nn.Conv2d(4, 2, 3), nn.ReLU(True), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("masks", MODES)
@pytest.mark.parametrize("name", OF_THE_FIELD)
def test_blocks_of_the_field_cut_at_each_activation_give_the_same(name, masks):
    if find_spec("torchvision") is None and name not in ("ReLU6", "transposed"):
        pytest.skip("torchvision is not installed")
    torch.manual_seed(4)
    model = OF_THE_FIELD[name]().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    x = 3 * batch(6, 3, 8, 8)
    found = masked_gradients(model, x, sum_of_squares, masks)
    expected = piece_by_piece(model, x, sum_of_squares, masks)
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-10, atol=1e-10)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


def assigned(x):
    y = x.clone()
    y[x < 0] = 0
    return y


def in_place_on_a_view(x):
    x.view(-1).relu_()
    return x


def into_numpy(x):
    return x * torch.from_numpy((x.detach().numpy() > 0).astype(float))


def scripted(x):
    return torch.jit.script(gated)(x)


def gated(x):
    return x * (x > 0)


# What each is called: a name that its user can find.
REFUSED = {
    "maximum": (lambda x: torch.maximum(x, torch.zeros(())), "maximum"),
    "max of two": (lambda x: torch.max(x, torch.zeros_like(x)), "maximum"),
    "where": (lambda x: torch.where(x > 0, x, 0), "where"),
    "mask": (lambda x: x * (x > 0), "mul"),
    "mask, detached and in place": (lambda x: x.mul_((x.detach() > 0).double()), "mul"),
    "mask, before a product without a gradient": (
        lambda x: (x * (x > 0), x.detach() * 2)[0],
        "mul",
    ),
    "mask, before a product in place": (
        lambda x: (x * (x > 0), x.detach().clone().mul_(2))[0],
        "mul",
    ),
    "masked_fill": (lambda x: x.masked_fill(x <= 0, 0), "masked_fill"),
    "masked_fill in place": (lambda x: x.masked_fill_(x <= 0, 0), "masked_fill"),
    "assignment by a mask": (assigned, "index_put"),
    "clamp by activities": (lambda x: torch.clamp(x, min=x.flip(1)), "clamp"),
    "GroupNorm": (lambda x: F.group_norm(x, 1), "group_norm"),
    "InstanceNorm": (lambda x: F.instance_norm(x[:, None])[:, 0], "instance_norm"),
    "LayerNorm": (lambda x: F.layer_norm(x, x.shape[1:]), "layer_norm"),
    "BatchNorm with a gate": (
        lambda x: F.batch_norm(x, None, None, x[0].detach(), None, True),
        "batch_norm",
    ),
    "RMSNorm": (lambda x: F.rms_norm(x, x.shape[1:]), "rms_norm"),
    "normalize": (F.normalize, "normalize"),
    "softsign": (F.softsign, "softsign"),
    "logsigmoid": (F.logsigmoid, "logsigmoid"),
    "hardshrink": (F.hardshrink, "hardshrink"),
    "softshrink": (F.softshrink, "softshrink"),
    "tanhshrink": (F.tanhshrink, "tanhshrink"),
    "abs": (torch.abs, "abs"),
    "abs in place": (lambda x: x.abs_(), "abs"),
    "power": (lambda x: x**2, "pow"),
    "special": (torch.special.expit, "expit"),
    "gelu": (nn.GELU(), "gelu"),
    "silu": (nn.SiLU(), "silu"),
    "silu in place": (nn.SiLU(inplace=True), "silu"),
    "leaky": (nn.LeakyReLU(), "leaky_relu"),
    "leaky in place": (nn.LeakyReLU(inplace=True), "leaky"),
    "prelu": (lambda x: F.prelu(x, torch.full((1,), 0.2).double()), "prelu"),
    "elu in place": (nn.ELU(inplace=True), "elu"),
    "sigmoid": (nn.Sigmoid(), "sigmoid"),
    "tanh": (nn.Tanh(), "tanh"),
    "softmax": (nn.Softmax(1), "softmax"),
    "attention": (
        lambda x: F.scaled_dot_product_attention(*3 * [x[:, None]])[:, 0],
        "scaled_dot_product_attention",
    ),
    "square by a product": (lambda x: x * x, "mul"),
    "gate, detached": (lambda x: x * x.detach().sigmoid(), "mul"),
    "products of matrices": (lambda x: (x[:, :, None] @ x[:, None, :]).sum(2), "matmul"),
    "einsum": (lambda x: torch.einsum("ni,ni->ni", x, x), "einsum"),
    "division": (lambda x: x / (1 + x.detach().abs()), "div"),
    "statistics of a sample": (lambda x: x / x.detach().std(1, keepdim=True), "div"),
    "maximum over units": (lambda x: x - x.amax(1, keepdim=True), "amax"),
    "sort": (lambda x: x.sort(1).values, "sort"),
    "gather by order": (lambda x: x.gather(1, x.detach().argsort(1)), "gather"),
    "vmap": (lambda x: torch.func.vmap(lambda row: row * (row > 0))(x), "mul"),
    "checkpoint": (lambda x: checkpoint(F.gelu, x, use_reentrant=False), "gelu"),
    "reentrant checkpoint": (lambda x: checkpoint(F.relu, x, use_reentrant=True), "use_reentrant"),
    "own backward pass": (Square.apply, "SquareBackward"),
    "own backward pass, linear names": (type("Add", (Square,), {}).apply, "AddBackward"),
    "in place on a view": (in_place_on_a_view, "inplace=False"),
    "a scripted function": (scripted, "mul|DifferentiableGraph"),
    "numpy": (into_numpy, "numpy"),
    "numbers": (lambda x: x * torch.tensor((x > 0).tolist()), "tolist"),
    "a branch": (lambda x: x if x[0, 0] > 0 else 2 * x, "bool"),
}


# Scripts are deprecated, and still in use.
SCRIPTS = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


@SCRIPTS
@pytest.mark.parametrize("masks", MODES)
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_neither_linear_nor_a_mask_is_refused_by_name(name, masks):
    function, named = REFUSED[name]
    with pytest.raises(ValueError, match=f"masked_gradients .*({named})"):
        masked_gradients(forms(function), batch(8, 5), sum_of_squares, masks)


def test_attention_in_a_layer_of_torch_is_refused():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.below = nn.Linear(5, 4)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            h = self.below(x)
            return self.attention(h, h, h)[0]

    with pytest.raises(ValueError, match="multi_head_attention"):
        masked_gradients(Layer().double(), batch(3, 4, 5), sum_of_squares)


@SCRIPTS
def test_scripted_modules_are_refused_on_every_call():
    model = nn.Sequential(nn.Linear(5, 4), torch.jit.script(nn.Sequential(nn.ReLU()))).double()
    for _ in range(3):
        with pytest.raises(ValueError, match="1 is a scripted module"):
            masked_gradients(model, batch(8, 5), sum_of_squares)


def test_what_runs_out_of_sight_is_refused():
    model = nn.DataParallel(mlp())
    masked_gradients(model, batch(8, 5), sum_of_squares)
    model.device_ids = [0, 1]
    with pytest.raises(ValueError, match=r"DataParallel of several devices.*model\.module"):
        masked_gradients(model, batch(8, 5), sum_of_squares)
    with torch.inference_mode():
        inference = mlp()
    with pytest.raises(ValueError, match=r"made under torch\.inference_mode"):
        masked_gradients(inference, batch(8, 5), sum_of_squares)


LINEAR = {
    "dropout": lambda x: F.dropout(x, 0.3),
    "noise": lambda x: x + x.detach() * torch.randn_like(x),
    "a factor": lambda x: x * torch.arange(1.0, x.shape[1] + 1),
    "a fixed mask": lambda x: x.masked_fill(torch.arange(x.shape[1]) > 3, 0),
    "a fixed choice": lambda x: x[:, torch.arange(x.shape[1]).flip(0)],
    "assignment": lambda x: torch.cat([x[:, :2], torch.zeros_like(x)[:, 2:]], 1),
    "one number of the batch": lambda x: x / x.detach().abs().mean(),
    "numbers of the batch": lambda x: (x - x.mean(0)) / x.detach().std(0),
    "a number read": lambda x: x * float(x.detach().square().mean()),
    "a look at the values": lambda x: x if x.isfinite().all() else 0 * x,
    "what no error passes": lambda x: x + x.detach().sigmoid(),
    "without gradients": lambda x: x + torch.no_grad()(torch.softmax)(x, 1),
    "straight through": lambda x: x + (x.sign() - x).detach(),
}


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_the_same_for_all_samples_has_nothing_to_mask(name):
    model, results = forms(LINEAR[name]), []
    for masks in MODES:
        torch.manual_seed(5)
        results.append(masked_gradients(model, batch(8, 5), sum_of_squares, masks))
    torch.manual_seed(5)
    sum_of_squares(model(batch(8, 5))).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.norm() > 0
        for gradients in results:
            torch.testing.assert_close(gradients[key], parameter.grad, **EXACT)


def test_functions_of_parameters_only_are_not_masks():
    class Parametrised(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(batch(4, 5))
            self.v = nn.Parameter(batch(3, 4))

        def forward(self, x):
            return F.linear(F.linear(x, F.relu(self.w)), F.softmax(self.v, 1) * self.v.abs())

    model, x = Parametrised(), batch(8, 5)
    sum_of_squares(model(x)).backward()
    for masks in MODES:
        found = masked_gradients(model, x, sum_of_squares, masks)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, **EXACT)


def test_the_loss_may_have_any_operation():
    model, x = mlp(), batch(4, 5)

    def loss_of(output):
        return F.gelu(F.softmax(output, 1)).sum() + F.relu(output).square().sum()

    loss_of(model(x)).backward()
    found = masked_gradients(model, x, loss_of, "sample")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, **EXACT)
    last = masked_gradients(model, x, loss_of, "none")["6.weight"]
    torch.testing.assert_close(last, model[6].weight.grad, **EXACT)


def test_a_mean_over_samples_needs_samples_along_the_first_axis():
    model = nn.Sequential(nn.Linear(5, 4), nn.Flatten(0, 1), nn.ReLU(), nn.Linear(4, 2)).double()
    with pytest.raises(
        ValueError, match=r"'relu' met an activity of shape \(24, 4\) for 8 samples"
    ):
        masked_gradients(model, batch(8, 3, 5), sum_of_squares, "batch")
    masked_gradients(model, batch(8, 3, 5), sum_of_squares, "none")


def test_inputs_stay_as_they_are_where_the_network_begins_in_place():
    model, x = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3)).double(), batch(4, 5)
    kept = x.clone()
    masked_gradients(model, x, sum_of_squares)
    assert torch.equal(x, kept)


def test_inference_mode_around_the_call_changes_nothing():
    model, x = mlp(), batch(8, 5)
    expected = masked_gradients(model, x, sum_of_squares)
    with torch.inference_mode():
        found = masked_gradients(model, batch(8, 5), sum_of_squares)
    for name, gradient in found.items():
        assert torch.equal(gradient, expected[name])


def test_a_loss_that_reaches_no_parameter_is_refused():
    with pytest.raises(ValueError, match="depends on none of the parameters"):
        masked_gradients(mlp(), batch(4, 5), lambda out: out.detach().sum())
    frozen = mlp().requires_grad_(False)
    assert masked_gradients(frozen, batch(4, 5), sum_of_squares) == {}


def test_hooks_of_the_user_see_each_gradient_once():
    model, seen = mlp(), []
    model[0].weight.register_hook(lambda gradient: seen.append(gradient.clone()))
    found = masked_gradients(model, batch(8, 5), sum_of_squares)
    assert len(seen) == 1
    assert torch.equal(seen[0], found["0.weight"])


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match='masks must be "sample"'):
        masked_gradients(mlp(), batch(4, 5), sum_of_squares, "mean")
    with pytest.raises(ValueError, match='masks must be "sample"'):
        masked_gradients(mlp(), batch(4, 5), sum_of_squares, np.ones((2, 2)))
    with pytest.raises(ValueError, match="got a single number"):
        masked_gradients(mlp(), torch.ones(()), sum_of_squares)
    with pytest.raises(ValueError, match=r"a scalar, got shape \(4, 3\)"):
        masked_gradients(mlp(), batch(4, 5), lambda out: out)
