"""The experiment on remedies in training changes what each remedy says, and nothing else."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from experiments.catalogue import trained_remedies
from experiments.training import Schedule
from linlocal.analysis import results

CONFIG = trained_remedies.PRESETS["smoke"]


def test_what_is_measured_obeys_the_remedy(smoke):
    data = results.read(smoke("trained_remedies"))
    assert (data["cosine"].isel(layer=-1) > 1 - 1e-6).all()  # float32
    assert (np.abs(data["cosine"]) <= 1 + 1e-12).all()
    deviation = data["deviation"].mean("repetition")
    free, kept = (deviation.sel(remedy=f"plain: {name}") for name in ("none", "retraction"))
    assert kept < 1e-5 < 1e-2 < free  # float32


def test_all_networks_of_a_kind_start_alike_and_one_with_small_branches_near_the_identity():
    z = torch.randn(2, CONFIG.channels, 8, 8)
    block = trained_remedies.build("residual", CONFIG, 1, 0)[1]
    again = trained_remedies.build("residual", CONFIG, 1, 0)[1]
    for a, b in zip(block.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        for p in block.parameters():
            p.zero_()
        assert torch.equal(block(z), z)
        assert not torch.equal(again(z), z)
    plain = trained_remedies.build("plain", replace(CONFIG, blocks=4), 1, 0)
    assert [name for name, _ in plain.named_children()] == [f"block{l}" for l in range(1, 5)]


def test_projections_learn_at_a_rate_of_their_own():
    network, projection = nn.Linear(2, 2), nn.Parameter(torch.ones(2))
    optimiser = Schedule(1, 0.1).faster([*network.parameters(), projection], network, 5.0)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert rates == {id(p): 0.1 for p in network.parameters()} | {id(projection): 0.5}
