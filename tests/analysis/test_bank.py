"""A bank of a teacher's keys in every block, against the loop of MoCo written by hand."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from linlocal.analysis import AlignmentRecorder, LocalTrainer, align
from linlocal.analysis.local_losses import GatheredRule, ManyViewsRule, MomentumContrast

TOLERANCE = 1e-10
SIZE, ROWS, WIDTHS = 10, 4, (6, 5, 4)
RULE = MomentumContrast(size=SIZE, temperature=0.2)
DECLARED = {"rule": RULE, "views": (1,), "teacher_views": (1,)}


def encoders():
    torch.manual_seed(1)
    layers = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in ((6, 5), (5, 4))]
    query = nn.Sequential(*layers).double()
    key = deepcopy(query).requires_grad_(False)
    for parameter in key.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return query, key


def views(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(ROWS, 6, generator=generator, dtype=torch.float64)
    return x, x + 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)


class Queue:
    """The queue of the released code: a list of unit vectors, the oldest ones are overwritten."""

    def __init__(self, start):
        self.keys, self.place = [*start], 0

    def loss(self, q, k, temperature=0.2):
        value = 0.0
        for a, b in zip(q, k, strict=True):
            a, b = a / a.norm(), b / b.norm()
            scores = torch.stack([a @ b, *(a @ key for key in self.keys)]) / temperature
            value = value - torch.log(torch.exp(scores[0]) / torch.exp(scores).sum())
        return value / len(q)

    def push(self, k):
        for key in k:
            self.keys[self.place % SIZE] = key / key.norm()
            self.place += 1


def global_loss(query, key):
    return (query * key).sum(1).square().mean()


def train(query, key, steps, recorder=None, first=0):
    """Steps of a loop in which the key encoder follows the query encoder."""
    found = []
    for step in range(first, first + steps):
        x, view = views(step)
        before = deepcopy((query.state_dict(), key.state_dict()))
        query.zero_grad()

        def run(x=x, view=view):
            with torch.no_grad():
                k = key(view)
            global_loss(query(x), k).backward()

        if recorder is None:
            run()
        else:
            with recorder.step():
                run()
        found.append((*before, [p.grad.clone() for p in query.parameters()]))
        with torch.no_grad():
            for p, of_key in zip(query.parameters(), key.parameters(), strict=True):
                p -= 0.1 * p.grad
                of_key.lerp_(p, 0.1)
    return found


def by_hand(steps):
    """The cosine of every block in every step."""
    query, key = encoders()
    queues = [Queue(loss.bank.double()) for loss in RULE.build([(w,) for w in WIDTHS[1:]])]
    cosines = []
    for step, (own, of_key, global_) in enumerate(train(query, key, steps)):
        query.load_state_dict(own)
        key.load_state_dict(of_key)
        here, there = views(step)
        row = []
        for l in range(2):
            here, there = query[l](here.detach()), key[l](there)
            value = queues[l].loss(here, there)
            local = torch.autograd.grad(value, [*query[l].parameters()])
            a, b = (
                torch.cat([g.flatten() for g in each])
                for each in (local, global_[2 * l : 2 * l + 2])
            )
            row.append(F.cosine_similarity(a, b, 0).item())
            queues[l].push(there)
        cosines.append(row)
    return np.array(cosines)


@pytest.mark.parametrize("every", [1, 3, lambda step: step in (2, 5)])
def test_keys_of_every_step_are_in_the_bank(every):
    query, key = encoders()
    recorder = AlignmentRecorder(query, teacher=key, every=every, **DECLARED)
    train(query, key, 7, recorder)
    found = recorder.dataset()
    np.testing.assert_allclose(found.cosine, by_hand(7)[found.step.values], atol=TOLERANCE)
    assert len(found.step) < 7 or every == 1
    assert not any(
        m._forward_hooks or m._forward_pre_hooks for m in [*query.modules(), *key.modules()]
    )


def test_a_bank_that_missed_the_steps_between_has_other_keys():
    query, key = encoders()
    recorder = AlignmentRecorder(query, teacher=key, every=1, **DECLARED)
    train(query, key, 2)
    train(query, key, 1, recorder, first=2)
    assert (abs(recorder.dataset().cosine[0] - by_hand(3)[2]) > 1e-3).any()


@pytest.mark.parametrize("first", [0, 3])
def test_a_checkpoint_keeps_the_bank(first):
    """Also one that was made before the first recorded step."""
    query, key = encoders()
    every = dict.fromkeys(range(first, 9)).__contains__
    recorder = AlignmentRecorder(query, teacher=key, every=every, **DECLARED)
    train(query, key, 2, recorder)
    resumed = AlignmentRecorder(query, teacher=key, every=every, **DECLARED)
    resumed.load_state_dict(recorder.state_dict())
    train(query, key, 4, resumed, first=2)
    found = resumed.dataset()
    np.testing.assert_allclose(found.cosine, by_hand(6)[found.step.values], atol=TOLERANCE)


def test_more_keys_than_the_bank_has_rows():
    (loss,) = MomentumContrast(size=3).build([(5,)])
    keys = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    loss.remember(keys)
    torch.testing.assert_close(loss.bank.norm(dim=1), torch.ones(3))
    expected = F.normalize(keys[-3:], dim=1)
    assert sorted(loss.bank.tolist()) == sorted(expected.tolist())


def test_where_there_is_no_teacher_it_is_refused():
    query, key = encoders()
    with pytest.raises(ValueError, match="keys of a teacher and remembers them: declare it"):
        align(query, None, RULE, *views(0))
    with pytest.raises(ValueError, match="a trainer, which has no teacher"):
        LocalTrainer(query, None, RULE, shape=(6,))
    for other in (GatheredRule(RULE), ManyViewsRule(rule=RULE, views=3)):
        with pytest.raises(ValueError, match="remember"):
            other.build([(5,), (4,)])
    stacked = AlignmentRecorder(query, rule=RULE, every=1, teacher=key, teacher_views=(1,))
    with pytest.raises(ValueError, match="for 2 and 1 of its views"):
        train(query, key, 1, stacked)
