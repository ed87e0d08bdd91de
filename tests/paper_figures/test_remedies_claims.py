"""The claims on remedies in training follow paired differences."""

import numpy as np
import pytest
import xarray as xr

from paper_figures.figures import trained_remedies

NAMES = ["plain: none", "plain: metric penalty", "residual: none", "residual: scaled branches"]
SPREAD = np.array([-0.2, 0.0, 0.2])  # of networks; a pair of trainings shares it


def result(cosine, accuracy, noise=0.001):
    """Remedies that gain so much, up to noise, over networks that differ more."""
    wobble = noise * np.array([1.0, -1.0, 0.0])
    gains = [0, 1, 0, 1]

    def values(gain):
        return np.stack([0.5 + SPREAD + g * (gain + wobble) for g in gains])

    cosines = values(cosine)[:, :, None, None].repeat(2, 2).repeat(3, 3)
    cosines[..., -1] = 1.0
    data = xr.Dataset(
        {
            "cosine": (("remedy", "repetition", "step", "layer"), cosines),
            "accuracy": (("remedy", "repetition"), values(accuracy)),
        },
        {
            "remedy": NAMES,
            "network": ("remedy", ["plain", "plain", "residual", "residual"]),
            "step": [0, 2],
            "layer": [1, 2, 3],
        },
    )
    return {"trained_remedies": data}


@pytest.mark.parametrize(
    ("gain", "noise", "verdict"),
    [(0.1, 0.001, "holds"), (-0.1, 0.001, "fails"), (0.1, 0.2, "undecided")],
)
def test_a_gain_counts_beyond_its_paired_interval(gain, noise, verdict):
    for words, datasets in (
        ("raises the cosine", result(gain, 0.0, noise)),
        ("raises accuracy", result(0.0, gain, noise)),
    ):
        claims = trained_remedies.claims(datasets)
        assert len(claims) == 4
        assert {c.verdict for c in claims if words in c.text} == {verdict}
