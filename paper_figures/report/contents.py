"""The report: every figure with the claims it tests, where its numbers come from, and how."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from linlocal.analysis.results import PRESETS, Address, ResultError
from paper_figures import claims, registry
from paper_figures.addresses import address
from paper_figures.claims import Verdict
from paper_figures.registry import FigureModule
from paper_figures.report import page as report_page, sources as drawing
from paper_figures.report.exhibit import Exhibit

TITLE = "linlocal: every figure, every claim"
VERDICTS = get_args(Verdict)
# The headings, by the PAPER of a figure's module.
PAPERS = {
    "A": "A. Local self-supervised learning against backpropagation (arXiv 2601.21683)",
    "B": "B. Local rules on the Random Hierarchy Model (arXiv 2605.18557, 2307.02129, 2406.00048)",
    "C": "C. Blockwise self-supervised learning (arXiv 2302.01647)",
    "": "Our own",
}


def write(
    out: Path,
    preset: str,
    seed: int,
    results: Path,
    missing: Mapping[str, str] = MappingProxyType({}),
    data: Collection[str] = (),
    shown: Collection[str] = registry.NAMES,
) -> tuple[Path, Path]:
    """Write ``report.html``, readable on its own, and ``report.md`` beside the pictures.

    Args:
        out: folder of the figures and their ``claims.json``.
        preset: size of the runs.
        seed: seed of the runs.
        results: folder of their results.
        missing: figures that could not be drawn now, whatever lies in the folder, and why.
        data: the data that results were chosen by, see `paper_figures.addresses`.
        shown: the figures of the page.

    Returns:
        The paths of page and text.
    """

    def draw(name: str, preset: str, out: Path) -> str:
        folders = ["--results", str(results), "--out", str(out)]
        chosen = [word for each in data for word in ("--data", each)]
        size = ["--preset", preset, "--seed", str(seed)]
        return shlex.join(["python", "-m", "paper_figures", name, *size, *folders, *chosen])

    known = claims.entries(out)
    exhibits = {}
    for name in sorted(shown):
        module = registry.load(name)

        def inputs(size: str, module: FigureModule = module) -> list[Address]:
            return [address(each, size, seed, results, data) for each in module.INPUTS]

        larger = []
        for size in PRESETS[PRESETS.index(preset) + 1 :]:
            # Several results of that size: nobody has said which.
            with suppress(ResultError):
                larger += [size] if all(each.path.exists() for each in inputs(size)) else []
        try:
            commands = [*map(drawing.command, inputs(preset)), draw(name, preset, out)]
        except ResultError:
            commands = [draw(name, preset, out)]
        entry = known.get(name, {}) if name not in missing else {}
        exhibits[name] = Exhibit(
            name=name,
            caption=registry.caption(module),
            claims=entry.get("claims", []),
            runs=[_run(each) for each in entry.get("inputs", [])],
            commands=commands,
            larger=[draw(name, size, out / size) for size in larger],
            pictures={Path(file).suffix: out / file for file in entry.get("pictures", {})},
            failure=missing.get(name, ""),
        )
    groups = {
        title: [each for name, each in exhibits.items() if key == registry.load(name).PAPER]
        for key, title in PAPERS.items()
    }
    groups = {title: group for title, group in groups.items() if group}
    drawn_with = {
        f"{package} {number}"
        for name in exhibits.keys() - set(missing)
        for package, number in known.get(name, {}).get("drawn with", {}).items()
    }
    preface = [
        f"Runs of preset {preset} with seed {seed}. A verdict is what a check on the saved "
        "numbers said. Statements of papers are reproduced, contradicted or undecided; what was "
        "published on other data or measured otherwise is not comparable, whatever comes out here. "
        "Our own statements hold, fail or are undecided. Undecided means that intervals do not "
        "decide, or that data or hardware are lacking.",
        "Below each figure stand the result files that its numbers come from, with the first 12 "
        "digits of their SHA-256, and the commands that make them; `python` is the interpreter "
        "of the environment `.venv`. `python -m experiments verify` computes some of the files "
        f"again and compares. Drawn with {', '.join(sorted(drawn_with)) or 'nothing yet'}.",
    ]
    page, text = out / "report.html", out / "report.md"
    out.mkdir(parents=True, exist_ok=True)
    claims.replace_text(page, report_page.render(TITLE, preface, groups, VERDICTS))
    claims.replace_text(text, _markdown(preface, groups))
    return page, text


def _run(stored: Mapping[str, Any]) -> dict[str, str]:
    """Where the numbers of one result come from, as labels and text."""
    machine = stored["hardware"]
    hardware = [str(machine.get("processor", "unknown processor"))]
    hardware += [f"{machine['cores']} cores"] if "cores" in machine else []
    hardware += [f"{machine['memory_gib']} GiB"] if "memory_gib" in machine else []
    hardware += [str(machine[key]) for key in ("accelerator", "machine") if key in machine]
    commit, dash, local = stored["commit"].partition("-")
    older = drawing.outdated(stored["experiment"], stored["code"], stored["commit"])
    return {
        "result": stored["file"],
        **({"outdated": older} if older else {}),
        "SHA-256": stored["sha256"][:12],
        "run": f"preset {stored['preset']}, seed {stored['seed']}",
        "parameters": _listed(stored["config"]),
        "made": f"{stored['date'] or 'date not recorded'}, in {_duration(stored['duration_s'])}",
        "hardware": ", ".join(hardware),
        "commit": f"{commit[:12]}{dash}{local}, code {stored['code']}",
        "versions": _listed(stored["packages"]),
    }


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in values.items()
    )


def _duration(seconds: float) -> str:
    """Three digits are enough: 6.48 s, 8 min 48 s, 1 h 24 min."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    if minutes < 60:
        return f"{int(minutes)} min {int(seconds) % 60} s"
    return f"{int(minutes / 60)} h {int(minutes) % 60} min"


def _markdown(preface: Sequence[str], groups: Mapping[str, Sequence[Exhibit]]) -> str:
    lines = [f"# {TITLE}", "", *(line for part in preface for line in (part, ""))]
    lines += [f"| figure | {' | '.join(VERDICTS)} |", f"|---|{'---:|' * len(VERDICTS)}"]
    exhibits = [each for group in groups.values() for each in group]
    for each in exhibits:
        counts = [each.count(verdict) for verdict in VERDICTS]
        cells = counts if each.pictures else ["missing", "", ""]
        lines.append(f"| [{each.name}](#{each.name}) | {' | '.join(map(str, cells))} |")
    totals = [sum(each.count(verdict) for each in exhibits) for verdict in VERDICTS]
    lines += [f"| all | {' | '.join(map(str, totals))} |", ""]
    for title, group in groups.items():
        lines += [f"## {title}", ""]
        for each in group:
            caption = claims.plain(each.caption)
            lines += [f"### {each.name}", "", caption, ""]
            if each.pictures:
                picture = each.pictures[".png"].name
                lines += [f"![{caption}]({picture})", "", *claims.table(each.claims), ""]
            else:
                lines += [claims.plain(each.failure), ""] if each.failure else []
                lines += ["**Missing.** Make it with the commands:", ""]
            for run in each.runs:
                lines += [*(f"- {label}: {claims.plain(text)}" for label, text in run.items()), ""]
            lines += [*(f"    {command}" for command in each.commands), ""]
            if each.larger:
                lines += [
                    report_page.LARGER,
                    "",
                    *(f"    {line}" for line in each.larger),
                    "",
                ]
    return "\n".join(lines)
