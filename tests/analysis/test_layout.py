"""Where channels, places and samples lie in an output: found, declared, or refused."""

import pytest
import torch
from torch import nn

from linlocal.analysis.alignment import AlignmentRecorder, align
from linlocal.analysis.block import resolve
from linlocal.analysis.layout import LAYOUTS, from_standard, to_standard
from linlocal.analysis.local_losses import ForwardForward
from linlocal.analysis.probing import probe_blocks
from linlocal.analysis.training import LocalTrainer
from linlocal.analysis.watching import audit_locality, capture, complete_from_above
from linlocal.analysis.watching.window import window

RULE = ForwardForward(pooling="global", goodness="mean")


class Permute(nn.Module):
    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(self.axes)


def layout_of(module, *shape):
    (block,) = resolve(nn.ModuleDict({"b": module}), ["b"], strict=False)
    return block.layout_of(torch.zeros(2, *shape))


def conv_block(*rest):
    return nn.Sequential(nn.Conv2d(3, 6, 3), *rest)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_standard_form_is_undone(layout):
    z = torch.randn(*range(2, 2 + len(layout)))
    standard = to_standard(z, layout)
    assert torch.equal(from_standard(standard, layout), z)
    expected = {"NHWC": "NCHW", "NCL": "NLC", "LNC": "NLC"}.get(layout, layout)
    lengths = dict(zip(layout, z.shape, strict=True))
    assert standard.shape == tuple(lengths[axis] for axis in expected)
    assert (standard is z) == (expected == layout)


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Linear(5, 6), (6,), "NC"),
        (conv_block(), (6, 4, 4), "NCHW"),
        (conv_block(), (6, 6, 4), "NCHW"),  # convolutions have one layout
        (conv_block(nn.LayerNorm([6, 4, 4])), (6, 4, 4), "NCHW"),
        (nn.Linear(5, 6), (4, 4, 6), "NHWC"),
        (nn.Linear(5, 6), (3, 4, 6), "NHWC"),
        (conv_block(nn.LayerNorm(6)), (6, 4, 4), "NCHW"),
        (conv_block(nn.LayerNorm(6)), (4, 4, 6), "NHWC"),
        (nn.Identity(), (6, 4, 4), "NCHW"),
        (nn.Identity(), (4, 5, 6), "NCHW"),
        (nn.Linear(5, 6), (4, 6), "NLC"),
        (nn.Linear(5, 6), (6, 6), "NLC"),
        (nn.Conv1d(5, 6, 3), (6, 9), "NCL"),
        (nn.Conv1d(5, 6, 3), (6, 6), "NCL"),
        (nn.Conv1d(5, 6, 3), (12, 9), "NCL"),  # concatenated
        (nn.Conv1d(5, 6, 3), (9, 6), "NLC"),  # transposed
        (conv_block(), (16, 6), "NLC"),  # patches as tokens
        (nn.Sequential(nn.Conv1d(5, 6, 3), nn.Linear(9, 9)), (6, 8), "NCL"),
        (nn.Flatten(2), (3, 16), "NLC"),
        (nn.Conv3d(3, 6, 3), (6, 4, 4, 4), ""),
    ],
)
def test_a_layout_is_found_where_it_is_certain(module, shape, expected):
    assert layout_of(module, *shape) == expected


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(6, 6), (6, 6, 6)),
        (nn.Linear(6, 6), (4, 5, 7)),  # neither axis is one of the layer
        (nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 4)), (6, 5, 4)),
        (nn.Sequential(conv_block(), nn.Linear(6, 6)), (6, 6, 4)),  # the facts contradict
        (nn.Identity(), (4, 4, 6)),
        (nn.Sequential(nn.Conv1d(6, 6, 3), nn.Linear(6, 6)), (6, 6)),
        (conv_block(), (6, 6)),
        (conv_block(), (9, 7)),
    ],
)
def test_a_layout_that_is_not_certain_is_refused(module, shape):
    with pytest.raises(ValueError, match=r'block .b., of shape .* Declare it: blocks=\{"b": "NC'):
        layout_of(module, *shape)


class ChannelsLast(nn.Module):
    """Two blocks of dense layers on pixels, as in Swin; and their twin with 1x1 convolutions."""

    def __init__(self, twin):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        w = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((6, 3), (5, 6))]
        make = (lambda a, b: nn.Conv2d(a, b, 1)) if twin else nn.Linear
        self.layers = nn.ModuleList(
            nn.Sequential(make(*v.shape[::-1]), nn.Tanh()).double() for v in w
        )
        with torch.no_grad():
            for layer, v in zip(self.layers, w, strict=True):
                layer[0].weight.copy_(v.view_as(layer[0].weight))
                layer[0].bias.zero_()
        self.twin = twin

    def forward(self, x):
        x = x if self.twin else x.permute(0, 2, 3, 1)
        for layer in self.layers:
            x = layer(x)
        return x.mean((2, 3) if self.twin else (1, 2))


X = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
NAMES = ("layers.0", "layers.1")


@pytest.mark.parametrize("pooling", ["global", 2])
def test_channels_last_is_measured_as_its_twin_with_channels_first(pooling):
    rule = ForwardForward(pooling=pooling, goodness="mean")
    found, twin = (align(ChannelsLast(t), NAMES, rule, X) for t in (False, True))
    for key in ("cosine", "local_norm", "global_norm", "error_cosine", "view_part"):
        assert abs(found[key] - twin[key]).max() < 1e-12
    recorded = []
    for each in (False, True):
        model = ChannelsLast(each)
        recorder = AlignmentRecorder(model, NAMES, rule=rule, every=1)
        with recorder.step():
            model(X).square().sum().backward()
        recorded.append(recorder.dataset())
    assert abs(recorded[0].cosine - recorded[1].cosine).max() < 1e-12
    assert abs(recorded[0].error_global_norm - recorded[1].error_global_norm).max() < 1e-12


def test_channels_last_is_trained_probed_and_audited_as_its_twin():
    twins = [ChannelsLast(t) for t in (False, True)]
    for model in twins:
        trainer = LocalTrainer(model, NAMES, RULE, shape=(3, 4, 4))
        assert [shape[0] for shape in trainer.shapes] == [6, 5]
        trainer.step(X)
    for ours, theirs in zip(*(m.parameters() for m in twins), strict=True):
        torch.testing.assert_close(ours, theirs.view_as(ours), rtol=1e-9, atol=1e-9)
    labels = torch.arange(8) % 2
    probes = [
        probe_blocks(m, NAMES, [(X, labels)], [(X, labels)], seed=0, validation=0.5) for m in twins
    ]
    assert probes[0].num_features.values.tolist() == [6, 5, 11]
    assert probes[0].identical(probes[1])
    for model in twins:
        assert audit_locality(model, NAMES, RULE, X).reached.values.trace() == 4
        with capture(model, NAMES) as outputs:
            model(X)
        assert [tuple(z.shape) for z in outputs.values()] == [(8, 6, 4, 4), (8, 5, 4, 4)]


def test_hooks_on_outputs_seen_in_standard_form_are_called():
    model, ready, shapes = ChannelsLast(False), [], []
    blocks = resolve(model, NAMES)

    def look(position, z):
        z.register_hook(lambda gradient: shapes.append(tuple(gradient.shape)))

    with complete_from_above(blocks, ready.append), window(blocks, look):
        model(X).sum().backward()
    assert ready == [1]
    assert shapes == [(8, 5, 4, 4), (8, 6, 4, 4)]


class Sequences(nn.Module):
    """Two attention blocks with tokens first inside, or with samples first."""

    def __init__(self, batch_first):
        super().__init__()
        torch.manual_seed(0)
        self.batch_first = batch_first
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=batch_first).double()
            for _ in range(2)
        )

    def forward(self, x):
        x = x if self.batch_first else x.transpose(0, 1)
        for layer in self.layers:
            x = layer(x)
        return x


TOKENS = torch.randn(8, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_tokens_first_is_refused_until_it_is_declared_and_then_measured_as_batch_first():
    with pytest.raises(ValueError, match=r"\(5, 8, 4\) for a batch of 8 rows.*\"LNC\""):
        align(Sequences(False), NAMES, RULE, TOKENS)
    declared = dict.fromkeys(NAMES, "LNC")
    found = align(Sequences(False), declared, RULE, TOKENS)
    twin = align(Sequences(True), NAMES, RULE, TOKENS)
    for key in ("cosine", "local_norm", "global_norm", "error_view_part"):
        assert abs(found[key] - twin[key]).max() < 1e-12
    labels = torch.arange(8) % 2
    batches = [(TOKENS, labels)]
    probes = [
        probe_blocks(Sequences(first), names, batches, batches, seed=0, validation=0.5)
        for first, names in ((False, declared), (True, NAMES))
    ]
    assert probes[0].identical(probes[1])


def test_batch_first_left_out_by_mistake_is_refused():
    # Samples are read as tokens of one sequence: attention mixes them, and shapes do not show it.
    layers = nn.Sequential(*(nn.TransformerEncoderLayer(4, 2, 8) for _ in range(2)))
    with pytest.raises(ValueError, match=r"MultiheadAttention with batch_first=False, .*'0'|\"0\""):
        align(layers, None, RULE, TOKENS.float())
    with pytest.raises(ValueError, match="GRU with batch_first=False"):
        align(nn.Sequential(nn.GRU(4, 4), nn.GRU(4, 4)), ["0"], RULE, TOKENS.float())


def test_rows_that_fit_no_sample_are_refused():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.Flatten(0, 1)), nn.Linear(6, 2))
    # (samples x tokens, channels) keeps the two views apart.
    align(model, None, RULE, TOKENS.float())
    fewer = nn.Sequential(
        nn.Linear(4, 6), nn.Unflatten(0, (4, 2)), nn.Flatten(1, 3), nn.Linear(60, 2)
    )
    with pytest.raises(ValueError, match=r"'2' returned shape \(4, 60\) for a batch of 8 rows"):
        align(fewer, ["2", "3"], RULE, TOKENS.float())


def test_a_declared_layout_must_fit_the_output():
    with pytest.raises(ValueError, match=r"declared to return LNC, which has 3 axes, .*8, 4, 4, 6"):
        align(ChannelsLast(False), dict.fromkeys(NAMES, "LNC"), RULE, X)
