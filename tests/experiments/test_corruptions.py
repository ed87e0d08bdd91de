"""Corruptions grow with severity, repeat themselves and keep what they must; probes read them."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from experiments.data import CORRUPTIONS, SEVERITIES, DataError, corrupt
from experiments.data.corruptions import corrupted_folder
from experiments.training import corrupted_accuracy
from linlocal.analysis.probing import linear_probe
from linlocal.analysis.results import ResultError

# The types of ImageNet-C but frost.
NAMES = {
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "fog", "brightness", "contrast"),
    *("elastic_transform", "pixelate", "jpeg_compression"),
}
RANDOM = NAMES - {
    *("defocus_blur", "zoom_blur", "brightness"),
    *("contrast", "pixelate", "jpeg_compression"),
}


def images(count=24, channels=3, side=32, mean=0.0, scale=1.0, seed=0):
    """White noise on smooth blobs."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(count, channels, side, side, generator=generator)
    coarse = torch.randn(count, channels, 4, 4, generator=generator)
    return mean + scale * (white + 2 * nn.functional.interpolate(coarse, side, mode="bicubic"))


def distortion(clean, name, severity, seed=0):
    return float((corrupt(clean, name, severity, seed) - clean).square().mean().sqrt())


def test_all_types_but_frost_are_there():
    assert set(CORRUPTIONS) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_distortion_grows_with_severity(name):
    clean = images()
    grown = [distortion(clean, name, severity) for severity in SEVERITIES]
    assert grown[0] > 0.05 * clean.std()
    assert all(weak < strong for weak, strong in itertools.pairwise(grown)), grown


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_seed_decides_and_nothing_else(name):
    clean = images(4)
    state = torch.get_rng_state()
    first = corrupt(clean, name, 3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(corrupt(clean, name, 3, seed=1), first)
    assert torch.equal(corrupt(clean, name, 3, seed=2), first) == (name not in RANDOM)
    assert torch.equal(clean, images(4))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_shape_and_type_are_kept_and_images_stay_in_their_rows(name):
    # One channel and an odd, oblong image; each row is still closest to its own image.
    clean = images(6, channels=2, side=20)[..., :13].double()
    corrupted = corrupt(clean, name, 1, seed=0)
    assert corrupted.shape == clean.shape
    assert corrupted.dtype == clean.dtype
    assert corrupted.isfinite().all()
    a, b = (each.flatten(1) - each.flatten(1).mean(1, keepdim=True) for each in (corrupted, clean))
    similar = nn.functional.normalize(a) @ nn.functional.normalize(b).T
    assert similar.argmax(1).tolist() == list(range(len(clean)))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_strength_follows_the_range_of_an_image(name):
    clean = images(3)
    moved = corrupt(7 + 4 * clean, name, 2, seed=0)
    expected = 7 + 4 * corrupt(clean, name, 2, seed=0)
    # Poisson counts and rounded coefficients jump where rounding errors cross a threshold.
    close = torch.isclose(moved, expected, atol=1e-3)
    assert close.double().mean() > 0.98


@pytest.mark.parametrize("name", sorted(NAMES))
def test_small_and_constant_images(name):
    small = images(8, channels=1, side=8)
    weak, strong = (distortion(small, name, severity) for severity in (1, 5))
    assert 0 < weak < strong
    constant = torch.full((2, 3, 16, 16), 5.0)
    torch.testing.assert_close(corrupt(constant, name, 5, seed=0), constant)


# -- the constants of ImageNet-C ------------------------------------------------------------------

# As in make_imagenet_c.py of Hendrycks & Dietterich; each is measured in what the corruption does.
PUBLISHED = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": (3, 4, 6, 8, 10),
    "glass_blur": ((0.7, 1), (0.9, 1.5), (1, 2), (1.1, 3), (1.5, 4)),
    "motion_blur": (3, 5, 8, 12, 15),
    "zoom_blur": (1.10, 1.15, 1.20, 1.25, 1.31),
    "snow": (
        (0.1, 3, 0.5, 4, 0.8),
        (0.2, 2, 0.5, 4, 0.7),
        (0.55, 4, 0.9, 8, 0.7),
        (0.55, 4.5, 0.85, 8, 0.65),
        (0.55, 2.5, 0.85, 12, 0.55),
    ),
    "fog": (1.5, 2, 2.5, 3, 3.5),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg_compression": (25, 18, 15, 10, 7),
}


def published(name):
    return pytest.mark.parametrize(
        ("severity", "constant"), list(enumerate(PUBLISHED[name], 1)), ids=map(str, SEVERITIES)
    )


def in_units(clean, name, severity, seed=0):
    """Images before and after, both with each image's mean and deviation before as ImageNet's."""
    mean = clean.mean((1, 2, 3), keepdim=True)
    scale = clean.std((1, 2, 3), correction=0, keepdim=True) / 0.226
    after = corrupt(clean, name, severity, seed)
    return 0.449 + (clean - mean) / scale, 0.449 + (after - mean) / scale


@published("gaussian_noise")
def test_the_deviation_of_the_noise(severity, constant):
    before, after = in_units(images(), "gaussian_noise", severity)
    noise = after - before
    assert float(noise.std()) == pytest.approx(constant, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02 * constant)


@published("shot_noise")
def test_the_number_of_photons(severity, constant):
    """A Poisson count of mean ``photons x`` has that variance."""
    before, after = in_units(images(), "shot_noise", severity)
    lit = before > 0
    assert torch.allclose(after[~lit], before[~lit], atol=1e-4)
    photons = before[lit].sum() / (after - before)[lit].square().sum()
    assert float(photons) == pytest.approx(constant, rel=0.05)
    counts = constant * after[lit]
    assert float((counts - counts.round()).abs().max()) < 0.01


@published("impulse_noise")
def test_the_share_of_pixels_at_either_end(severity, constant):
    before, after = in_units(images(), "impulse_noise", severity)
    hit = (after - before).abs() > 1e-4
    for end in (0.0, 1.0):
        share = (hit & (after - end).abs().lt(1e-4)).double().mean()
        assert float(share) == pytest.approx(constant / 2, rel=0.06)
    assert float(hit.double().mean()) == pytest.approx(constant, rel=0.05)


def spread(kernel):
    """Variance of a response along its last axis, about its mean."""
    weights = kernel.double() / kernel.double().sum()
    places = torch.arange(kernel.shape[-1], dtype=torch.float64)
    centre = (weights * places).sum()
    return float((weights * (places - centre) ** 2).sum())


def column(count=1, side=224, at=112):
    clean = torch.zeros(count, 1, side, side)
    clean[..., at] = 1
    return clean


@published("defocus_blur")
def test_the_radius_of_the_disk(severity, constant):
    """A disk of radius r has the variance r^2 / 4 along an axis, its soft edge adds about 1 / 3."""
    along = corrupt(column(), "defocus_blur", severity, 0).mean((0, 1, 2))
    assert spread(along) == pytest.approx(constant**2 / 4 + 1 / 3, rel=0.02)


@published("glass_blur")
def test_how_far_glass_moves_and_blurs(severity, constant):
    """Two Gaussians and an even distribution over [-reach, reach]; interpolation adds 1 / 6."""
    deviation, reach = constant
    along = corrupt(column(8), "glass_blur", severity, 0).mean((0, 1, 2))
    assert spread(along) == pytest.approx(2 * deviation**2 + reach**2 / 3 + 1 / 6, rel=0.05)


@published("motion_blur")
def test_the_length_of_the_motion(severity, constant):
    """Of a point over the line: half a Gaussian that ends at two deviations, E[d^2] = 0.774."""
    point = torch.zeros(6, 1, 224, 224)
    point[..., 112, 112] = 1
    kernel = corrupt(point, "motion_blur", severity, 0).sum((0, 1)).clamp_min(0).double()
    places = torch.arange(224.0, dtype=torch.float64) - 112
    squared = places[:, None] ** 2 + places**2
    found = float((kernel * squared).sum() / kernel.sum())
    assert found == pytest.approx(0.774 * constant**2, rel=0.12)


@published("zoom_blur")
def test_the_largest_magnification(severity, constant):
    """A line at distance D from the centre is seen at D f, f wide, for 11 magnifications f."""
    factors = torch.linspace(1, constant, 11, dtype=torch.float64)
    distance = 60
    along = corrupt(column(at=112 + distance), "zoom_blur", severity, 0).mean((0, 1, 2)).double()
    places = torch.arange(224, dtype=torch.float64) - 111.5
    found = float((along * places).sum() / along.sum())
    expected = (distance + 0.5) * factors.square().sum() / factors.sum()
    assert found == pytest.approx(float(expected), rel=0.002)


def flakes_of(before, after, clear):
    """The snow alone: what is neither the image nor its whitening."""
    return after - clear * before - (1 - clear) * torch.maximum(before, 1.5 * before + 0.5)


@published("snow")
def test_how_much_snow_lies_and_how_much_shines_through(severity, constant):
    mean, _, threshold, _, clear = constant
    one, other = images(40, channels=1, seed=1), images(40, channels=1, seed=2)
    # Far from black, where the whitened image is 1.5 x + 0.5; the flakes are the same for both.
    (before, after), (before_, after_) = (in_units(x, "snow", severity) for x in (one, other))
    white = (before.minimum(before_) > -1) & ((before - before_).abs() > 0.5)
    slope = (after - after_)[white] / (before - before_)[white]
    expected = torch.full_like(slope, clear + 1.5 * (1 - clear))
    torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-3)
    # On 32 pixels no flake is wider than one, and dragging them keeps their mean.
    draws = mean + 0.3 * torch.randn(10**6, generator=torch.Generator().manual_seed(3))
    flake = torch.where(draws < threshold, 0.0, draws.clamp_max(1)).mean()
    found = flakes_of(before, after, clear).mean()
    assert float(found) == pytest.approx(2 * float(flake), rel=0.04)


@published("snow")
def test_how_large_flakes_are_and_how_far_they_fall(severity, constant):
    """Their variance on 224 pixels is that of another program's snow, by scipy."""
    mean, size, threshold, drag, clear = constant
    side, count = 224, 24
    inner = np.s_[..., 40:-40, 40:-40]  # where no snow falls in from outside
    found = flakes_of(*in_units(images(count, 1, side), "snow", severity), clear)[inner].var()
    rng = np.random.default_rng(0)
    snow = []
    for _ in range(count):
        coarse = rng.normal(mean, 0.3, [math.ceil(side / size)] * 2)
        places = (np.indices((side, side)) + 0.5) * len(coarse) / side - 0.5
        flakes = ndimage.map_coordinates(coarse, places, order=1, mode="nearest")
        flakes = np.where(flakes < threshold, 0, np.minimum(flakes, 1))
        angle = rng.uniform(-np.pi / 4, np.pi / 4)
        steps = np.linspace(0, 2, max(math.ceil(2 * drag), 8) + 1)
        fallen = (
            sum(
                np.exp(-(step**2) / 2)
                * ndimage.shift(
                    flakes, drag * step * np.array([np.sin(angle), np.cos(angle)]), order=1
                )
                for step in steps
            )
            / np.exp(-(steps**2) / 2).sum()
        )
        snow.append((fallen + fallen[::-1, ::-1])[inner])
    assert float(found) == pytest.approx(np.var(snow), rel=0.1)


@published("fog")
def test_the_thickness_of_the_fog(severity, constant):
    """Over a plain the plasma covers 0..1; the brightest pixel b scales it by b / (b + t)."""
    clean = torch.zeros(4, 1, 32, 32)
    clean[..., 3, 5] = 1
    before, after = in_units(clean, "fog", severity)
    plain = after.flatten(1)[:, torch.arange(32 * 32) != 3 * 32 + 5]
    span = plain.amax(1) - plain.amin(1)
    brightest = before.amax((1, 2, 3))
    torch.testing.assert_close(
        span, constant * brightest / (brightest + constant), rtol=0.02, atol=0
    )


@published("brightness")
def test_the_shift_of_brightness(severity, constant):
    before, after = in_units(images(2), "brightness", severity)
    torch.testing.assert_close(after - before, torch.full_like(before, constant), atol=1e-4, rtol=0)


@published("contrast")
def test_the_share_of_contrast_that_is_left(severity, constant):
    before, after = in_units(images(2), "contrast", severity)
    means = before.mean((2, 3), keepdim=True)
    torch.testing.assert_close(after, means + constant * (before - means), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("severity", "length"), list(enumerate((2, 4, 6, 8, 10), 1)))
def test_the_length_of_elastic_displacements(severity, length):
    """A ramp shows the displacements; at the nodes of the grid they are normal and independent."""
    side, nodes = 65, torch.tensor([16, 32, 48])
    ramp = torch.arange(side, dtype=torch.float32).expand(60, 1, side, side)
    found = []
    for clean in (ramp, ramp.transpose(2, 3)):
        moved = corrupt(clean.contiguous(), "elastic_transform", severity, 0) - clean
        found.append(moved[..., nodes[:, None], nodes].flatten())
    assert float(torch.cat(found).std()) == pytest.approx(length * side / 224, rel=0.08)
    assert abs(float((found[0] * found[1]).mean())) < 0.2 * (length * side / 224) ** 2


@published("pixelate")
def test_the_number_of_cells(severity, constant):
    for side in (16, 40):
        clean = images(1, channels=1, side=side)
        cells = corrupt(clean, "pixelate", severity, 0)
        for axis in (2, 3):
            edges = (cells.diff(dim=axis).abs() > 1e-4).any(5 - axis)
            assert int(edges.sum()) + 1 == round(constant * side)
        torch.testing.assert_close(cells.mean(), clean.mean(), atol=1e-5, rtol=0)


@published("jpeg_compression")
def test_the_quality_of_the_compression(severity, constant):
    from kornia.enhance import jpeg_codec_differentiable

    clean = images(3, channels=1)
    clean -= clean.amin((1, 2, 3), keepdim=True)
    clean /= clean.amax((1, 2, 3), keepdim=True)
    coded = jpeg_codec_differentiable(clean.expand(-1, 3, -1, -1), torch.tensor([float(constant)]))
    found = corrupt(clean, "jpeg_compression", severity, 0)
    close = torch.isclose(found, coded[:, :1], atol=1e-3)
    assert close.double().mean() > 0.98  # coefficients jump where rounding errors cross a threshold


@pytest.mark.parametrize("severity", [0, 6, -1, 2.5])
def test_a_severity_that_does_not_exist_is_refused(severity, tmp_path):
    generator = torch.Generator()
    with pytest.raises(ValueError, match=rf"one of 1\.\.5, got {severity}"):
        CORRUPTIONS["contrast"](images(1), severity, generator)
    with pytest.raises(ValueError, match=rf"one of 1\.\.5, got {severity}"):
        corrupted_folder(tmp_path, "contrast", severity, 8)


def test_errors_say_what_was_expected():
    with pytest.raises(ResultError, match="did you mean 'gaussian_noise'"):
        corrupt(images(1), "gausian_noise", 1, 0)
    with pytest.raises(TypeError, match=r"floats, got torch\.uint8; divide bytes by 255"):
        corrupt(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "fog", 1, 0)
    with pytest.raises(ValueError, match=r"batch of images .* got shape \(3, 8, 8\)"):
        corrupt(torch.zeros(3, 8, 8), "fog", 1, 0)


def test_folders_of_imagenet_c_are_read_in_the_order_of_their_files(tmp_path):
    for k, name in enumerate(("n01", "n02")):
        inner = tmp_path / "frost" / "3" / name
        inner.mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (9, 9), (100 * k + 30 * i,) * 3).save(inner / f"{i}.png")
    found = corrupted_folder(tmp_path, "frost", 3, 8, classes=("n01", "n02", "n03"))
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert [int(image.float().mean()) for image, _ in found] == [0, 30, 100, 130]
    with pytest.raises(DataError, match=r"severity 3 .* has frost\. Expected CORRUPTION/SEVERITY"):
        corrupted_folder(tmp_path, "fog", 3, 8)
    with pytest.raises(DataError, match="has no corruption"):
        corrupted_folder(tmp_path, "frost", 4, 8)


# -- what a probe reads from them -----------------------------------------------------------------


def labelled(count, seed, noise=3.0):
    labels = torch.arange(count) % 3
    patterns = images(3, side=8, seed=9)
    generator = torch.Generator().manual_seed(seed)
    return patterns[labels] + noise * torch.randn(count, 3, 8, 8, generator=generator), labels


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Dropout(0.5))


def pooled(network, inputs):
    with torch.no_grad():
        return network.eval()(inputs).mean((2, 3))


def test_the_probe_is_the_linear_probe_of_clean_images(network):
    train, test = labelled(90, 0), labelled(60, 1)
    buffers = [b.clone() for b in network.buffers()]
    found = corrupted_accuracy(network, train, test, ["brightness", "gaussian_noise"], seed=0)
    assert network.training
    assert all(torch.equal(a, b) for a, b in zip(buffers, network.buffers(), strict=True))
    x = pooled(network, train[0])
    for name in ("brightness", "gaussian_noise"):
        for severity in (0, 1, 4, 5):
            harmed = corrupt(test[0], name, severity, 0) if severity else test[0]
            expected = linear_probe(x, train[1], pooled(network, harmed), test[1], seed=0)
            assert float(found.sel(corruption=name, severity=severity)) == expected.accuracy
    assert len({*found.values.flatten().tolist()}) > 3


def test_training_that_diverged_reads_nothing():
    found = corrupted_accuracy(None, labelled(9, 0), labelled(6, 1), ["fog"], seed=0)
    assert found.sizes == {"corruption": 1, "severity": 6}
    assert (found == 0).all()
