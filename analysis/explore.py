"""An explorer for notebooks: change a network, a rule or a penalty, and see the cosines at once.

With ipywidgets and a notebook front end `explore` shows sliders, a figure and what
`linlocal.explain` finds; without them it returns a plain figure of one setting.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from io import BytesIO
from typing import Any, Literal

import numpy as np
import xarray as xr

from linlocal import DeepLinear, DeepReLU, Pairs, Rule, compare, explain, inputs, rules
from linlocal.doors import missing_explained
from linlocal.networks import Network

with missing_explained(__name__):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.image import imsave

RULES = {"same layer": rules.CLAPP, "direct feedback": rules.CLAPP_DFB, "both": rules.CLAPP_BOTH}
SCORES = ("linear", "softplus", "hinge")
FLOOR = 1e-16  # what lies below the rounding of float64 is drawn here
PENALTIES: tuple[rules.Metric, ...] = ("frobenius", "downstream")


@dataclass(frozen=True)
class Setting:
    """The values that the sliders set.

    Attributes:
        depth: L, the number of layers.
        first_width: the number of units of the first layer.
        top_width: the number of units of the last layer; the widths between are interpolated
            geometrically.
        condition_number: the condition number of the map downstream of the first layer; 1 makes it
            an isometry if the network does not narrow. A ReLU network, whose weights are
            orthogonal, ignores it.
        rule: the name of the rule, a key of `RULES`.
        score: the name of the score, one of `SCORES`.
        penalty: lam, the strength of the penalty.
        metric: the metric of the penalty, "frobenius" or "downstream" (linear networks only).
        relu: whether a ReLU follows every layer.
        samples: the number of samples in the batch.
        seed: seeds the weights and the views.

    Raises:
        ValueError: a number out of range.
        TypeError: something else than a (whole) number.
    """

    depth: int = 5
    first_width: int = 32
    top_width: int = 32
    condition_number: float = 1.0
    rule: str = "same layer"
    score: str = "softplus"
    penalty: float = 0.01
    metric: Literal["frobenius", "downstream"] = "frobenius"
    relu: bool = False
    samples: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("depth", "first_width", "top_width", "samples")
        inputs.keep(self, partial(inputs.whole, least=1), *counts)
        inputs.keep(self, partial(inputs.whole, least=0), "seed")
        inputs.keep(self, inputs.positive, "condition_number", "penalty")

    @property
    def widths(self) -> list[int]:
        """n_0..n_L; the input is as wide as the first layer."""
        inner = np.geomspace(self.first_width, self.top_width, self.depth).round().astype(int)
        return [self.first_width, *inner.tolist()]

    def problem(self) -> tuple[Network, Pairs, Rule]:
        """What `linlocal.compare` and `linlocal.explain` take; views have correlation 0.9.

        Raises:
            ValueError: an unknown rule, or a part that does not fit; the message says which.
        """
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {self.rule!r}.")
        rng = np.random.default_rng(self.seed)
        x = rng.standard_normal((self.samples, self.first_width))
        pairs = Pairs.from_views(x, x + 0.5 * rng.standard_normal(x.shape))
        network: Network
        if self.relu:
            network = DeepReLU.orthogonal(self.widths, self.seed)
        else:
            network = DeepLinear.with_condition_number(
                self.widths, self.condition_number, self.seed
            )
        metric = "frobenius" if self.relu else self.metric
        rule = RULES[self.rule](self.score, penalty=rules.Penalty(self.penalty, metric))
        return network, pairs, rule


def cosines(setting: Setting) -> xr.Dataset:
    """`linlocal.compare` of one setting.

    Raises:
        ValueError: as `Setting.problem`.
    """
    return compare(*setting.problem())


class Explorer:
    """A figure of the cosines of one setting that can be redrawn for another.

    Attributes:
        figure: the figure of cosine and mismatch terms against the layer.
        setting: the setting that the figure shows.
        explanation: what `linlocal.explain` finds in it.
    """

    def __init__(self, setting: Setting = Setting()) -> None:
        self.figure = Figure(figsize=(7.0, 2.6), dpi=72)
        self.figure.subplots_adjust(left=0.08, right=0.98, top=0.8, bottom=0.18, wspace=0.25)
        left, right = self._axes = self.figure.subplots(1, 2)
        (self._cosine,) = left.plot([], [], "o-")
        self._terms = {
            name: right.plot([], [], "o-", label=name)[0] for name in ("dual", "context", "metric")
        }
        left.axhline(0, color="0.7", linewidth=0.8)
        left.set(xlabel="layer", ylim=(-0.3, 1.05))
        right.set(xlabel="layer", yscale="log", ylim=(FLOOR, 1e2), title="mismatch over ||global||")
        right.set_yticks([1e-16, 1e-8, 1])
        right.minorticks_off()
        right.legend(frameon=False, loc="center left")  # lines fall at the right
        self._title = left.text(
            0.5, 1.05, "", fontsize="large", ha="center", transform=left.transAxes
        )
        # Axes, ticks and words take most of the time of a drawing. They are drawn when the number
        # of layers changes, and kept below what moves.
        self._canvas: Any = FigureCanvasAgg(self.figure)  # whose methods have no types
        self._moving = [self._cosine, *self._terms.values(), self._title]
        self._below: Any = None
        self.setting = setting
        self.update()

    def update(self, **changes: Any) -> Figure:
        """Redraw with some fields of the setting changed.

        Raises:
            TypeError: a setting has no such field.
        """
        self.setting = replace(self.setting, **changes)
        self.explanation = explain(*self.setting.problem())
        data = self.explanation.comparison
        layers = data["layer"].values
        if len(layers) != len(self._cosine.get_xdata()):
            for axes in self._axes:
                axes.set(xlim=(0.8, len(layers) + 0.2), xticks=layers[:: -(-len(layers) // 6)])
            self._below = None
        self._cosine.set_data(layers, data["cosine"].values)
        for name, line in self._terms.items():
            line.set_data(layers, np.maximum(data[f"{name}_mismatch"].values, FLOOR))
        worst = float(data["relative_error"].max())
        self._title.set_text(f"cosine, local and global\n(worst relative error {worst:.1e})")
        return self.figure

    def _repr_png_(self) -> bytes:
        """What a notebook shows, whether or not it shows matplotlib's figures."""
        if self._below is None:
            for artist in self._moving:
                artist.set_visible(False)
            self._canvas.draw()
            self._below = self._canvas.copy_from_bbox(self.figure.bbox)
            for artist in self._moving:
                artist.set_visible(True)
        self._canvas.restore_region(self._below)
        for artist in self._moving:
            self.figure.draw_artist(artist)
        picture = BytesIO()
        rows = self._canvas.buffer_rgba()
        imsave(picture, rows, format="png", pil_kwargs={"compress_level": 1})
        return picture.getvalue()


def explore(setting: Setting = Setting()) -> Any:
    """Sliders over a live figure; an `Explorer` where ipywidgets or a notebook is missing.

    Args:
        setting: the setting to begin with.

    Returns:
        A widget, or an `Explorer`.
    """
    explorer = Explorer(setting)
    try:
        import ipywidgets
        from IPython import get_ipython
    except ImportError:
        return explorer
    if get_ipython() is None:
        return explorer

    controls = {
        "depth": ipywidgets.IntSlider(setting.depth, min=2, max=12),
        "first_width": ipywidgets.IntSlider(setting.first_width, min=2, max=64),
        "top_width": ipywidgets.IntSlider(setting.top_width, min=1, max=64),
        "condition_number": ipywidgets.FloatLogSlider(setting.condition_number, min=0, max=4),
        "rule": ipywidgets.Dropdown(options=list(RULES), value=setting.rule),
        "score": ipywidgets.Dropdown(options=SCORES, value=setting.score),
        "penalty": ipywidgets.FloatLogSlider(setting.penalty, min=-4, max=1),
        "metric": ipywidgets.Dropdown(options=PENALTIES, value=setting.metric),
        "relu": ipywidgets.Checkbox(setting.relu),
        "seed": ipywidgets.IntSlider(setting.seed, min=0, max=20),
    }
    assert set(controls) <= {field.name for field in fields(Setting)}
    picture, found = ipywidgets.Image(format="png"), ipywidgets.HTML()

    def redraw(_: object = None) -> None:
        explorer.update(**{name: control.value for name, control in controls.items()})
        picture.value = explorer._repr_png_()
        found.value = explorer.explanation._repr_html_()

    for name, control in controls.items():
        control.description = name.replace("_", " ")
        control.observe(redraw, "value")
    redraw()
    shown = ipywidgets.VBox([picture, found])
    return ipywidgets.HBox([ipywidgets.VBox(list(controls.values())), shown])
