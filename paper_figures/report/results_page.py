"""The command ``python -m paper_figures.report.results_page``: what is known, paper by paper.

It reads the results of a folder, decides all claims from the strongest of them, and writes
``docs/results.md``; no verdict and no number in it is typed by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product, starmap
from pathlib import Path
from typing import Annotated

import typer

from linlocal.analysis import results
from linlocal.analysis.results import Address, Provenance, ResultError
from paper_figures import claims, registry
from paper_figures.addresses import changed_results, data_of, settings_of, strongest, words
from paper_figures.claims import Claim, plain
from paper_figures.registry import FigureModule
from paper_figures.report.sources import outdated

# What each paper states, in our words. The first number of a letter is the paper of figures with
# that PAPER where a claim names none.
PAPERS = {
    "2601.21683": (
        "Local self-supervised learning against backpropagation",
        "The paper derives when the updates of layers that each minimise a contrastive loss of "
        "their own equal those of backpropagation in deep linear networks, and proposes to send "
        "the top layer down as context (direct feedback). It measures cosines on MNIST, crops of "
        "natural images and STL-10, accuracies on CIFAR-10, STL-10 and Tiny ImageNet.",
    ),
    "2302.01647": (
        "Blockwise self-supervised learning at scale",
        "The paper trains the four blocks of a ResNet-50 on ImageNet, each by a self-supervised "
        "loss of its own, and compares them with training end to end.",
    ),
    "2605.18557": (
        "Local rules on the Random Hierarchy Model",
        "Only the abstract is known to us: direct feedback fails on hierarchies for lack of the "
        "masks of the layers above; layer-local self-supervised rules learn them from as few data "
        "as backpropagation. Its settings are not public to us, so nothing of it is comparable.",
    ),
    "2307.02129": (
        "How deep networks learn the Random Hierarchy Model",
        "The paper defines the model and states that deep networks learn it from n m^L labels, "
        "when they become insensitive to synonyms; shallow ones need a share of all data. The data "
        "are synthetic, and ours are drawn from the same model.",
    ),
    "2406.00048": (
        "Correlations and contexts in the Random Hierarchy Model",
        "The paper predicts which contexts a network can use from so many data by the covariances "
        "of tokens.",
    ),
    "2605.27734": (
        "Clustering the hidden symbols of the Random Hierarchy Model",
        "The paper finds hidden symbols level by level, as groups of tuples that occur in the same "
        "contexts, and predicts that a level costs v m^3 data, whatever the depth.",
    ),
    "1609.01596": (
        "Direct feedback alignment",
        "The paper sends errors to each layer through fixed random matrices and reports angles and "
        "errors on MNIST.",
    ),
    "1904.05391": ("Learned feedback weights", "The paper learns the weights of the feedback."),
    "1510.05067": ("Signs of the weights as feedback", "The paper sends back the signs alone."),
    "1909.01311": (
        "Direct random target projection",
        "The paper sends targets instead of errors through fixed random matrices.",
    ),
}
_OF_LETTER = {"A": "2601.21683", "B": "2605.18557", "C": "2302.01647"}
_PUBLISHED = ("reproduced", "contradicted", "undecided", "not comparable")
_OURS = ("holds", "fails", "undecided")
_DEMONSTRATIONS = ("smoke", "cpu")
METHOD = """\
A statement holds where intervals lie inside a stated region, fails where one lies outside, and is
undecided otherwise. The units are networks; batches are averaged within a network. The 95 %
intervals of the layers of a statement hold together (Bonferroni), and all statements of a figure
are corrected for one another (Holm), those that are not comparable apart. Statements about every
case computed, such as equality to rounding, fail by one counterexample. A published statement is
reproduced or contradicted only where it was measured on the data it was published on; elsewhere it
is not comparable, and what was found is told all the same. Each verdict comes from the strongest
result there is: published data before data that stand in for them, larger presets before smaller
ones. Results of the preset `cpu` are demonstrations of minutes on embedded data and decide
little."""


BESIDE = """\
These results were made with parameters that are not those of a preset (`--set`). They decide
nothing and are counted nowhere above; behind each statement stands what these numbers alone say."""


@dataclass(frozen=True)
class Evidence:
    """The claims of one figure, decided from one set of results.

    Attributes:
        figure: name of the figure.
        claims: its claims, decided together.
        origins: the results that they were computed from, and how each was made.
        settings: the parameters that are not those of the preset, in words.
    """

    figure: str
    claims: Sequence[Claim]
    origins: Mapping[Address, Provenance]
    settings: str = ""

    @property
    def words(self) -> str:
        """The results in words."""
        found = "; ".join(starmap(_described, self.origins.items()))
        return f"{found}, with {self.settings}" if self.settings else found

    @property
    def kept(self) -> bool:
        """Whether the results are larger than those of a demonstration."""
        return all(map(_larger, self.origins))


def gather(folder: Path) -> list[Evidence]:
    """Decide the claims of all figures from the strongest results in a folder.

    Args:
        folder: the folder that ``python -m experiments run`` filled.
    """
    return [each for name in registry.NAMES for each in _of_figure(name, folder)]


def beside(folder: Path) -> list[Evidence]:
    """The claims of single larger results whose parameters are not those of a preset.

    Args:
        folder: the folder that ``python -m experiments run --set NAME=VALUE`` filled.
    """
    modules = {name: registry.load(name) for name in registry.NAMES}
    return [
        _evidence(name, module, [address])
        for name, module in modules.items()
        for address in changed_results(module.INPUTS, folder)
        if _larger(address) and _drawable(module, address)
    ]


def page(found: Sequence[Evidence], others: Sequence[Evidence] = ()) -> str:
    """The page in Markdown.

    Args:
        found: the evidence of all figures.
        others: what decides nothing, see `beside`.
    """
    published: dict[str, list[tuple[Evidence, Claim]]] = {number: [] for number in PAPERS}
    ours: list[tuple[Evidence, Claim]] = []
    for each in found:
        letter = registry.load(each.figure).PAPER
        for claim in each.claims:
            if claim.published is None:
                ours.append((each, claim))
            else:
                number = claim.paper or _OF_LETTER[letter]
                published.setdefault(number, []).append((each, claim))
    papers = {number: pairs for number, pairs in published.items() if pairs}
    lines = ["# Results", "", METHOD, "", *_counts(papers), ""]
    for number, pairs in papers.items():
        title, said = PAPERS.get(number, ("A paper", ""))
        lines += [f"## {title} (arXiv {number})", "", said, "", _summary(pairs), ""]
        here, there = (
            [pair for pair in pairs if (pair[1].verdict == "not comparable") is foreign]
            for foreign in (False, True)
        )
        lines += ["### On what was published", ""] if here else []
        lines += _by_figure(here, _PUBLISHED)
        lines += ["### On something else, not comparable", ""] if there else []
        lines += _by_figure(there, _PUBLISHED)
    lines += ["## Our own statements", "", _own_summary(ours), "", *_own_table(ours), ""]
    lines += ["Those that fail or are undecided:", ""]
    lines += _by_figure([pair for pair in ours if pair[1].verdict != "holds"], _OURS)
    if others:
        lines += ["## With other parameters", "", BESIDE, "", *_beside(others)]
    every = [*found, *others]
    if kept := {a: made for each in every for a, made in each.origins.items() if _larger(a)}:
        lines += ["## What it took", "", *_took(kept), ""]
    if missing := [name for name in registry.NAMES if name not in {each.figure for each in found}]:
        lines += [f"Without a result that the present code reads: {', '.join(missing)}."]
    return "\n".join(lines).rstrip() + "\n"


def _of_figure(name: str, folder: Path) -> Iterator[Evidence]:
    module = registry.load(name)
    chosen = [
        strongest(experiment, folder, lambda address: _drawable(module, address))
        if len(module.INPUTS) == 1
        else strongest(experiment, folder)[:1]
        for experiment in module.INPUTS
    ]
    for addresses in product(*chosen):
        yield _evidence(name, module, addresses)


def _evidence(name: str, module: FigureModule, addresses: Sequence[Address]) -> Evidence:
    datasets = {each.experiment: results.read(each.path) for each in addresses}
    return Evidence(
        name,
        claims.decided(module.claims(datasets)),
        {each: Provenance.of(datasets[each.experiment]) for each in addresses},
        "; ".join(filter(None, (words(settings_of(each)) for each in datasets.values()))),
    )


def _drawable(module: FigureModule, address: Address) -> bool:
    """Whether the present code reads the result; one of older code may lack what it needs."""
    try:
        module.claims({address.experiment: results.read(address.path)})
    # An older result can fail anywhere in xarray, and in any way.
    except (ResultError, KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        typer.echo(f"left out: {address.path}: {type(error).__name__}: {error}", err=True)
        return False
    return True


def _larger(address: Address) -> bool:
    return address.preset not in _DEMONSTRATIONS


def _described(address: Address, stored: Provenance) -> str:
    data = json.loads(stored.config).get("data")
    named = data_of(address).partition("-")[0] or ("embedded data" if data is not None else "")
    run = [f"preset {stored.preset}", *([named] if named else []), f"seed {stored.seed}"]
    return f"`{address.path.name}` ({', '.join(run)}, commit {stored.commit[:8]})"


def _counts(papers: Mapping[str, Sequence[tuple[Evidence, Claim]]]) -> list[str]:
    lines = [f"| arXiv | {' | '.join(_PUBLISHED)} |", f"|---|{'---:|' * len(_PUBLISHED)}"]
    for number, pairs in papers.items():
        lines.append(f"| {number} | {' | '.join(str(_count(pairs, v)) for v in _PUBLISHED)} |")
    every = [pair for pairs in papers.values() for pair in pairs]
    return [*lines, f"| all | {' | '.join(str(_count(every, v)) for v in _PUBLISHED)} |"]


def _count(pairs: Sequence[tuple[Evidence, Claim]], verdict: str) -> int:
    return sum(claim.verdict == verdict for _, claim in pairs)


def _summary(pairs: Sequence[tuple[Evidence, Claim]]) -> str:
    """One sentence that counts, and one that says on what."""
    counted = ", ".join(
        f"{number} {'is' if number == 1 else 'are'} {verdict}"
        for verdict in _PUBLISHED
        if (number := _count(pairs, verdict))
    )
    kept = sum(each.kept for each, _ in pairs)
    return (
        f"Of its statements, {len(pairs)} put to numbers, {counted}. On larger runs rest {kept}, "
        f"on demonstrations {len(pairs) - kept}."
    )


def _own_summary(pairs: Sequence[tuple[Evidence, Claim]]) -> str:
    holds, fails, undecided = (_count(pairs, verdict) for verdict in _OURS)
    return f"Of {len(pairs)} statements {holds} hold, {fails} fail, {undecided} are undecided."


def _own_table(pairs: Sequence[tuple[Evidence, Claim]]) -> list[str]:
    lines = [f"| figure | {' | '.join(_OURS)} | from |", f"|---|{'---:|' * len(_OURS)}---|"]
    for figure, origin in dict.fromkeys((each.figure, each.words) for each, _ in pairs):
        here = [pair for pair in pairs if (pair[0].figure, pair[0].words) == (figure, origin)]
        counts = " | ".join(str(_count(here, verdict)) for verdict in _OURS)
        lines.append(f"| {figure} | {counts} | {origin} |")
    return lines


def _took(kept: Mapping[Address, Provenance]) -> list[str]:
    """How long each result took, on what, and whether the present code would make it."""
    minutes = {address: stored.duration_s / 60 for address, stored in kept.items()}
    lines = [
        f"The larger runs took {sum(minutes.values()) / 60:.1f} hours. A result of other code was "
        "computed before an edit of something that it reaches.",
        "",
        "| result | minutes | cores | processor or accelerator | code |",
        "|---|---:|---:|---|---|",
    ]
    for address, stored in sorted(kept.items(), key=lambda item: item[0].path.name):
        machine = json.loads(stored.hardware)
        used = machine.get("accelerator", machine.get("processor", "unknown"))
        code = "other" if outdated(stored.experiment, stored.code, stored.commit) else "present"
        lines.append(
            f"| `{address.path.name}` | {minutes[address]:.1f} | {machine.get('cores', '')} | "
            f"{used} | {code} |"
        )
    return lines


def _by_figure(pairs: Sequence[tuple[Evidence, Claim]], verdicts: Sequence[str]) -> list[str]:
    lines = []
    for figure, origin in dict.fromkeys((each.figure, each.words) for each, _ in pairs):
        caption = plain(registry.caption(registry.load(figure)))
        lines += [f"**{figure}.** {caption} From {origin}.", ""]
        here = [claim for each, claim in pairs if (each.figure, each.words) == (figure, origin)]
        for verdict in verdicts:
            lines += [_sentence(claim) for claim in here if claim.verdict == verdict]
        lines.append("")
    return lines


def _beside(others: Sequence[Evidence]) -> list[str]:
    """What each of these results says by itself."""
    lines = []
    for each in others:
        caption = plain(registry.caption(registry.load(each.figure)))
        lines += [f"**{each.figure}.** {caption} From {each.words}.", ""]
        lines += [f"- {_measured(claim, claim.numbers)}: {claim.here}." for claim in each.claims]
        lines.append("")
    return lines


def _sentence(claim: Claim) -> str:
    """A claim with what it rests on, as an item of a list."""
    said = f" Published: {plain(claim.source)}." if claim.source else ""
    return f"- *{claim.verdict.capitalize()}*: {_measured(claim, claim.evidence)}.{said}"


def _measured(claim: Claim, numbers: str) -> str:
    decision = claim.decision
    by = "; ".join(filter(None, (decision.units, decision.correction))) if decision else ""
    return f"{plain(claim.text)}. Measured: {plain(numbers)}" + (f" ({by})" if by else "")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    folder: Annotated[
        Path, typer.Option("--results", help="Folder that `python -m experiments run` filled.")
    ] = Path("results"),
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("docs/results.md"),
) -> None:
    """Decide every claim from the strongest results of a folder and write them as a page.

    Results of other parameters than those of a preset stand below and decide nothing.
    """
    found = gather(folder)
    if not found:
        typer.echo(
            f"error: {folder} holds no results; make some with\n  python -m experiments run all",
            err=True,
        )
        raise typer.Exit(2)
    claims.replace_text(out, page(found, beside(folder)))
    typer.echo(f"written: {out}")


if __name__ == "__main__":
    app()
