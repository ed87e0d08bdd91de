"""A hybrid takes each pixel from one of two images, in patches."""

import pytest
import torch

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


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (8, 12)])
def test_what_is_no_batch_of_images_is_refused(shape):
    with pytest.raises(ValueError, match="at least 2 images"):
        hybrid_images(torch.zeros(shape), torch.Generator())
