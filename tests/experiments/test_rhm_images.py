"""Images of the Random Hierarchy Model show their leaves, and views share what they should."""

import numpy as np
import pytest
import torch

from experiments.data import RHMImages
from linlocal.rhm import RandomHierarchyModel
from linlocal.rhm.images import grid, ungrid

SIZES = {"num_classes": 3, "num_symbols": 4, "num_synonyms": 3, "num_levels": 2, "tuple_size": 4}
RHM = RandomHierarchyModel(**SIZES, seed=0)
SOURCE = RHMImages(RHM, train=300, test=60, patch_size=3, num_channels=2, seed=1)


def leaves(pixels):
    """Which texture stands where, by comparison with all of them."""
    count, channels, height, width = pixels.shape
    patches = pixels.reshape(count, channels, height // 3, 3, width // 3, 3)
    patches = patches.transpose(0, 2, 4, 1, 3, 5).reshape(count, height // 3, width // 3, 1, -1)
    distance = np.abs(patches - SOURCE._textures.reshape(4, -1)).max(axis=-1)
    assert (np.sort(distance, axis=-1)[..., 0] == 0).all()
    return ungrid(RHM, distance.argmin(axis=-1))


def test_images_show_the_data_with_their_classes():
    data = SOURCE.data()
    for images, labels, count in (
        (data.train, data.train_labels, 300),
        (data.test, data.test_labels, 60),
    ):
        assert images.shape == (count, 2, 12, 12)
        assert images.dtype == np.float32
        np.testing.assert_array_equal(RHM.parse(leaves(images)).labels, labels)
    assert len(data.classes) == 3


def test_no_image_occurs_twice():
    data = SOURCE.data()
    rows = [image.tobytes() for image in (*data.train, *data.test)]
    assert len({*rows}) == 360


def test_the_seed_decides_data_and_textures():
    again = RHMImages(RHM, train=300, test=60, patch_size=3, num_channels=2, seed=1)
    other = RHMImages(RHM, train=300, test=60, patch_size=3, num_channels=2, seed=2)
    np.testing.assert_array_equal(again.data().train, SOURCE.data().train)
    assert not np.array_equal(other.train.leaves, SOURCE.train.leaves)
    assert not np.array_equal(other._textures, SOURCE._textures)


@pytest.mark.parametrize("change", ["resample", "exchange"])
@pytest.mark.parametrize("level", [1, 2])
def test_views_share_the_latents_from_their_level_up_and_those_below_differ(change, level):
    rows = np.arange(50, 100)
    views = SOURCE.two_views(rows, level=level, seed=0, change=change).numpy()
    assert len(views) == 100
    first, second = (RHM.parse(leaves(part)) for part in (views[:50], views[50:]))
    np.testing.assert_array_equal(first.leaves, SOURCE.train[rows].leaves)
    for height, (a, b) in enumerate(zip(first.symbols, second.symbols, strict=True)):
        assert np.array_equal(a, b) == (height >= level)
    again, other = (
        SOURCE.two_views(rows, level=level, seed=s, change=change).numpy() for s in (0, 1)
    )
    np.testing.assert_array_equal(again, views)
    assert not np.array_equal(other, views)


def test_no_view_is_a_test_image():
    # A third of all data are test data, so that a third of the views would be.
    rhm = RandomHierarchyModel(
        num_classes=2, num_symbols=3, num_synonyms=2, num_levels=2, tuple_size=4, seed=0
    )
    assert rhm.num_data == 64
    source = RHMImages(rhm, train=40, test=24)
    test = {image.tobytes() for image in source.data().test}
    rows = np.tile(np.arange(40), 5)
    views = source.two_views(rows, level=2, seed=0).numpy()[len(rows) :]
    assert test.isdisjoint(image.tobytes() for image in views)
    unchecked = source.render(rhm.resample(source.train[rows], 2, seed=0))
    assert not test.isdisjoint(image.tobytes() for image in unchecked)
    # The rows that did not need another draw keep their first one.
    kept = [k for k, image in enumerate(unchecked) if image.tobytes() not in test]
    np.testing.assert_array_equal(views[kept], unchecked[kept])


def test_data_without_any_view_but_test_data_are_an_error():
    rhm = RandomHierarchyModel(
        num_classes=2, num_symbols=3, num_synonyms=2, num_levels=1, tuple_size=4, seed=0
    )
    source = next(
        s
        for seed in range(20)
        for s in [RHMImages(rhm, train=2, test=2, seed=seed)]
        if len({*s.train.labels}) == 2
    )
    with pytest.raises(ValueError, match="no views but test data"):
        source.two_views([0, 1], level=1, seed=0, change="exchange")


def test_what_is_no_image_or_no_change_is_refused():
    line = RandomHierarchyModel(num_classes=2, num_symbols=4, num_synonyms=2, num_levels=2)
    with pytest.raises(ValueError, match="square patches"):
        RHMImages(line, train=4, test=4)
    with pytest.raises(ValueError, match='must be "resample" or "exchange"'):
        SOURCE.two_views([0], level=1, seed=0, change="corrupt")
    with pytest.raises(ValueError, match="level 0"):
        SOURCE.two_views([0], level=0, seed=0)


def test_patches_are_the_pixels_of_the_leaves_in_the_order_of_the_tree():
    """Cut out of the rendered image, where leaf k of the tree stands."""
    data = SOURCE.train[:5]
    patches = SOURCE.patches(data.leaves).reshape(5, RHM.num_leaves, 2, 3, 3)
    place = grid(RHM, np.arange(RHM.num_leaves)[None])[0]
    picture = SOURCE.render(data)
    for (row, column), leaf in np.ndenumerate(place):
        pixels = picture[:, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        np.testing.assert_array_equal(patches[:, leaf], pixels)


def test_a_layer_over_tuples_is_a_convolution_of_the_image():
    data = SOURCE.train[:5]
    patches, picture = SOURCE.patches(data.leaves), torch.from_numpy(SOURCE.render(data))
    weight = torch.randn(4, 4 * 18, generator=torch.Generator().manual_seed(0))
    layer = patches.reshape(5, -1, 4 * 18) @ weight.T
    # (out, row, column, channel, y, x) -> (out, channel, row y, column x)
    kernel = weight.reshape(4, 2, 2, 2, 3, 3).permute(0, 3, 1, 4, 2, 5).reshape(4, 2, 6, 6)
    wanted = torch.nn.functional.conv2d(picture, kernel, stride=6)
    upper = RandomHierarchyModel(**{**SIZES, "num_levels": RHM.num_levels - 1})
    place = grid(upper, np.arange(upper.num_leaves)[None])[0]
    for (row, column), node in np.ndenumerate(place):
        torch.testing.assert_close(layer[:, node], wanted[:, :, row, column])
