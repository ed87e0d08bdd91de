"""Corruptions grow with severity, repeat themselves and keep what they must; probes read them."""

import itertools

import pytest
import torch
from PIL import Image
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


def test_known_amounts():
    clean = images(2)
    unit = clean.std((1, 2, 3), correction=0) / 0.226
    shifted = corrupt(clean, "brightness", 2, 0) - clean
    torch.testing.assert_close(
        shifted, (0.2 * unit)[:, None, None, None].expand_as(clean), atol=1e-5, rtol=1e-5
    )
    faded = corrupt(clean, "contrast", 5, 0)
    assert float(faded.var((2, 3)).sum() / clean.var((2, 3)).sum()) == pytest.approx(0.05**2)
    noise = corrupt(clean, "gaussian_noise", 1, 0) - clean
    torch.testing.assert_close(noise.std((1, 2, 3)), 0.08 * unit, rtol=0.1, atol=0)
    cells = corrupt(images(1, side=16), "pixelate", 2, 0)
    assert len(cells[0, 0].flatten().round(decimals=4).unique()) == 8 * 8


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
