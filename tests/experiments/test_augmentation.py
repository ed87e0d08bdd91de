"""Laws of the augmentation: its seed decides, and nothing outside changes."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from experiments.data.augmentation import mild, simclr, two_views


def images(count=6, channels=3, size=32, seed=0):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


CASES = pytest.mark.parametrize(
    ("augmentation", "batch"),
    [
        (lambda: simclr(32), images()),
        (lambda: simclr(48), images()),  # blurred, and of another size than its images
        (lambda: simclr(16, num_channels=1), images(channels=1)),
        (lambda: mild(8), images(channels=1, size=8)),
    ],
    ids=["colour", "blurred", "grey", "digits"],
)


@CASES
def test_the_seed_decides_and_the_global_state_does_not(augmentation, batch):
    transform = augmentation()
    first = two_views(batch, transform, seed=0)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - another library's draws must not matter
    random.seed(5)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]  # noqa: NPY002
    assert torch.equal(first, two_views(batch, augmentation(), seed=0))
    assert not torch.equal(first, two_views(batch, transform, seed=1))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    np.testing.assert_array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002


@CASES
def test_views_are_images_and_each_is_another(augmentation, batch):
    views = two_views(batch, augmentation(), seed=0)
    assert views.shape[:2] == (12, batch.shape[1])
    assert views.dtype == torch.float32
    assert views.isfinite().all()
    same = two_views(batch[:1].expand(6, -1, -1, -1), augmentation(), seed=0)
    assert len({view.numpy().tobytes() for view in same}) == 12


def test_row_k_and_row_n_plus_k_are_of_one_image():
    batch = torch.rand(6, 1, 1, 1).expand(-1, 3, 32, 32)
    views = two_views(batch, simclr(32, strength=1e-6), seed=0)
    # Crops and flips of a constant image are that image; colour is hardly changed.
    torch.testing.assert_close(views, torch.cat([batch, batch]), rtol=0, atol=0.01)
    assert torch.equal(two_views(batch, nn.Identity(), seed=0), torch.cat([batch, batch]))


def test_bytes_are_levels_between_0_and_1():
    batch = (images() * 255).round().to(torch.uint8)
    levels = two_views(batch, nn.Identity(), seed=0)
    torch.testing.assert_close(levels[:6] * 255, batch.float())
    views = two_views(batch, simclr(32), seed=0)
    assert 0 <= views.min() < views.max() <= 1 + 1e-6


def test_each_part_of_simclr_happens_as_often_as_published():
    count = 1000
    grey = two_views(images(1, size=16).expand(count, -1, -1, -1), simclr(16, strength=1e-6), 0)
    is_grey = (grey - grey.mean(dim=1, keepdim=True)).abs().amax(dim=(1, 2, 3)) < 1e-3
    assert abs(is_grey.double().mean() - 0.2) < 4 * np.sqrt(0.16 / (2 * count))
    # An image that is constant but for its sides tells a flip from none.
    ramp = torch.linspace(0, 1, 16).expand(count, 1, 16, 16)
    views = two_views(ramp, simclr(16, num_channels=1), 0)
    flipped = (views[..., 0] > views[..., -1]).double().mean()
    assert abs(flipped - 0.5) < 4 * np.sqrt(0.25 / (2 * count))


def test_only_images_above_32_pixels_are_blurred_unless_that_is_said():
    def is_blurred(*args, **options):
        return any("Blur" in type(step).__name__ for step in simclr(*args, **options))

    assert [is_blurred(size) for size in (32, 33)] == [False, True]
    assert is_blurred(32, blurred=True)
    assert not is_blurred(33, blurred=False)


def test_a_crop_covers_the_smallest_share_or_more():
    # Steps from pixel to pixel are as small as the crop is.
    ramp = torch.linspace(0, 1, 32).expand(500, 1, 32, 32).clone()
    seen = {}
    for smallest in (0.08, 0.25):
        views = two_views(ramp, simclr(32, 1, smallest=smallest), 0)
        seen[smallest] = (views[..., 0, -1] - views[..., 0, 0]).abs().min()
    assert seen[0.08] < 0.35 < seen[0.25]


def test_colour_is_left_alone_where_channels_are_no_colours():
    batch = torch.rand(6, 4, 1, 1).expand(-1, -1, 32, 32)
    views = two_views(batch, simclr(32, num_channels=4, strength=1.0), seed=0)
    torch.testing.assert_close(views, torch.cat([batch, batch]))
    coloured = two_views(batch[:, :3], simclr(32, strength=1.0), seed=0)
    assert (coloured - torch.cat([batch, batch])[:, :3]).abs().max() > 0.1


def test_the_mild_version_shifts_by_a_pixel_at_most():
    batch = torch.zeros(200, 1, 8, 8)
    batch[..., 4, 4] = 1.0
    bright = (two_views(batch, mild(8, noise=1e-3), seed=0) > 0.5).nonzero()[:, 2:]
    assert {tuple(place) for place in bright.tolist()} == {
        (row, column) for row in (3, 4, 5) for column in (3, 4, 5)
    }
    noise = two_views(torch.zeros(200, 1, 8, 8), mild(8, noise=0.2), seed=0)
    assert abs(float(noise.std()) - 0.2) < 0.01


def test_a_single_image_is_refused():
    with pytest.raises(ValueError, match=r"a batch of images .*got shape \(3, 32, 32\)"):
        two_views(images()[0], nn.Identity(), seed=0)
