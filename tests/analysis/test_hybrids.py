"""A hybrid takes each pixel from one of two images, in patches."""

import pytest
import torch
from sklearn.datasets import load_digits

from linlocal.analysis.local_losses import hybrid_images


def hybrids(rounds=6, seed=0):
    # Image k is k everywhere: a pixel tells where it comes from.
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 24, 24)
    return images, hybrid_images(images, torch.Generator().manual_seed(seed), rounds)


def test_every_pixel_is_of_the_image_or_of_the_next_in_all_channels():
    images, made = hybrids()
    own, other = made == images, made == images.roll(-1, 0)
    assert (own | other).all()
    assert (own == own[:, :1]).all()
    assert 0.3 < own.float().mean() < 0.7
    assert not torch.equal(made, hybrids(seed=1)[1])
    assert torch.equal(made, hybrids(seed=0)[1])


def test_blurring_makes_patches():
    def borders(made):
        return (made.diff(dim=2) != 0).float().mean() + (made.diff(dim=3) != 0).float().mean()

    none, some, many = (borders(hybrids(rounds)[1]) for rounds in (0, 2, 8))
    assert none > 1.5 * some > 1.5 * 1.2 * many


def digits(side, count=256):
    images = torch.tensor(load_digits().images[:count] / 16)[:, None].float()
    return torch.nn.functional.adaptive_avg_pool2d(images, side)


@pytest.mark.parametrize("side", [2, 3, 4, 8])
def test_no_negative_is_an_image_of_the_batch_or_nearly_one(side):
    images = digits(side)
    for seed in range(5):
        made = hybrid_images(images, torch.Generator().manual_seed(seed))
        equal = (made[:, None] == images).flatten(2).all(2)
        assert not equal.any()


def test_both_images_are_visible_in_a_hybrid():
    images = torch.arange(64.0).view(64, 1, 1, 1).expand(64, 1, 8, 8)
    made = hybrid_images(images, torch.Generator().manual_seed(0))
    own = (made == images).float().mean((1, 2, 3))
    assert ((own >= 1 / 8) & (own <= 7 / 8)).all()
    assert ((made == images) | (made == images.roll(-1, 0))).all()


def test_only_masks_that_fail_are_drawn_again():
    """Large images: no mask fails, and the hybrids are those of the first draw."""
    images = torch.rand(6, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(0)
    made = hybrid_images(images, generator)
    again = torch.Generator().manual_seed(0)
    torch.randint(0, 2, (6, 1, 40, 40), generator=again)
    assert torch.equal(generator.get_state(), again.get_state())
    assert (made == images).any()


def test_an_image_that_equals_the_next_is_mixed_with_a_later_one():
    images = torch.arange(4.0).view(4, 1, 1, 1).repeat(1, 1, 8, 8)
    images[1] = images[0]
    made = hybrid_images(images, torch.Generator().manual_seed(0))
    assert set(made[0].flatten().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(4, 1, 8, 8),
        -torch.zeros(4, 1, 8, 8),
        torch.arange(4.0).view(4, 1, 1, 1),
        torch.ones(2, 3, 8, 8, dtype=torch.uint8),
    ],
    ids=["equal", "minus zero", "one pixel", "bytes"],
)
def test_images_without_hybrids_are_refused(images):
    images = torch.cat([images, -images[:1]]) if images.signbit().any() else images
    with pytest.raises(ValueError, match=r"have no hybrid of .* Take larger images"):
        hybrid_images(images, torch.Generator())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.uint8])
def test_images_of_any_type_keep_it(dtype):
    images = (16 * digits(8, 16)).to(dtype)
    made = hybrid_images(images, torch.Generator().manual_seed(0))
    assert made.dtype == dtype
    assert not (made[:, None] == images).flatten(2).all(2).any()


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (8, 12)])
def test_what_is_no_batch_of_images_is_refused(shape):
    with pytest.raises(ValueError, match="at least 2 images"):
        hybrid_images(torch.zeros(shape), torch.Generator())
