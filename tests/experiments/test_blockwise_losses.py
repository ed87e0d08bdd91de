"""Losses by name are the published ones, behind the heads that were asked for."""

import pytest

from experiments.training import SUPERVISED, VIEW_LOSSES, headed_rule
from linlocal.analysis.local_losses import HeadedClasses, HeadedViews

SIZES = {"width": 16, "projector": (8, 4)}


def test_barlow_twins_are_the_published_default_of_heads():
    assert headed_rule("Barlow Twins", 3, **SIZES) == HeadedViews(width=16, widths=(8, 4))


@pytest.mark.parametrize("loss", ["VICReg", "SimCLR"])
def test_other_losses_have_no_factor(loss):
    found = headed_rule(loss, 3, kind="local", gathered=True, **SIZES)
    assert (found.loss, found.scale) == (VIEW_LOSSES[loss], 1.0)
    assert (found.kind, found.gathered) == ("local", True)


def test_a_supervised_projector_ends_in_the_classes():
    found = headed_rule(SUPERVISED, 3, kind="global", **SIZES)
    assert isinstance(found, HeadedClasses)
    assert (found.kind, found.width, found.widths) == ("global", 16, (8, 3))
