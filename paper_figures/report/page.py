"""The report as one page of HTML that asks for nothing: no script, no other file, no network."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from paper_figures.report.exhibit import Exhibit

LARGER = "The results of a larger run are there, too. To draw them:"

_SIGNS = {
    **dict.fromkeys(("reproduced", "holds"), "✓"),
    **dict.fromkeys(("contradicted", "fails"), "✗"),
    "undecided": "?",
    **dict.fromkeys(("not comparable", "missing"), "–"),
}

_STYLE = """
:root {
  color-scheme: light dark;
  --text: #1b1f24; --quiet: #59636e; --page: #ffffff; --panel: #f5f7f9; --line: #d4dae0;
  --link: #0b5cad; --good: #11703c; --bad: #b3261e; --open: #7a5b00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e3e7ec; --quiet: #9aa5b1; --page: #14181d; --panel: #1d232a; --line: #37404a;
    --link: #7db7f5; --good: #5fcf90; --bad: #ff8f85; --open: #e6c45a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem;
  background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
}
a { color: var(--link); }
h1 { font-size: 1.9rem; line-height: 1.2; }
h2 { margin-top: 3.5rem; padding-bottom: .3rem; border-bottom: 2px solid var(--line); }
h3 { margin: 2.8rem 0 .2rem; font-size: 1.15rem; line-height: 1.35; }
h2, h3 { scroll-margin-top: 1rem; }
.name, code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .85em; }
.name { margin: 0 0 .8rem; color: var(--quiet); }
.picture { margin: 0 0 1rem; padding: .8rem; background: #fff; border: 1px solid var(--line);
  border-radius: .5rem; }
.picture img { display: block; width: 100%; height: auto; max-height: 60rem; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th, td { padding: .4rem .6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { color: var(--quiet); font-weight: 600; }
.summary .quiet { color: var(--quiet); }
.summary td:not(:first-child), .summary th:not(:first-child) { width: 8.5rem; text-align: right;
  font-variant-numeric: tabular-nums; }
.summary .group td { padding-top: 1.2rem; font-weight: 600; }
.summary .all td { font-weight: 600; border-bottom: 0; }
.claims { table-layout: fixed; }
.claims th:nth-child(1) { width: 32%; }
.claims th:nth-child(2) { width: 9.5rem; }
.by { color: var(--quiet); font-size: .85em; }
.verdict { font-weight: 600; white-space: nowrap; }
.reproduced, .holds { color: var(--good); }
.contradicted, .fails { color: var(--bad); }
.undecided, .not-comparable, .missing { color: var(--open); }
.source { margin-top: 1rem; padding: .8rem 1rem; background: var(--panel); border-radius: .5rem;
  font-size: .85rem; }
.source dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; }
.source dl + dl { margin-top: .8rem; padding-top: .8rem; border-top: 1px solid var(--line); }
.source dt { color: var(--quiet); }
.source dd { margin: 0; overflow-wrap: anywhere; }
pre, .source p { margin: .8rem 0 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  h1 { font-size: 1.5rem; }
  .summary { font-size: .8rem; }
  .summary td, .summary th { padding: .3rem .2rem; }
  .summary td:not(:first-child), .summary th:not(:first-child) { width: 2.8rem; }
  .summary .quiet, .summary th .word { display: none; }
  .picture { overflow-x: auto; }
  .picture img { min-width: 36rem; }
  .claims thead { display: none; }
  .claims, .claims tbody, .claims tr, .claims td { display: block; }
  .claims tr { padding: .6rem 0; border-bottom: 1px solid var(--line); }
  .claims td { padding: .1rem 0; border: 0; }
  .claims td:empty { display: none; }
  .claims td[data-label]::before { content: attr(data-label) ": "; color: var(--quiet); }
  .source dl { grid-template-columns: 1fr; }
  .source dd { margin-bottom: .3rem; }
}
@media print { .source, .picture, tr { break-inside: avoid; } }
"""


def render(
    title: str,
    preface: Sequence[str],
    groups: Mapping[str, Sequence[Exhibit]],
    verdicts: Sequence[str],
) -> str:
    """The page as text, the same for the same figures.

    Args:
        title: title of the page.
        preface: paragraphs, in which `code` stands between backquotes.
        groups: the figures under their headings.
        verdicts: the verdicts, in the order of the columns that count them.
    """
    parts = [f"<h1>{escape(title)}</h1>", *(f"<p>{_prose(text)}</p>" for text in preface)]
    parts += [_summary(groups, verdicts)]
    for number, (heading, exhibits) in enumerate(groups.items(), 1):
        parts.append(f'<h2 id="group-{number}">{escape(heading)}</h2>')
        parts += [_section(each) for each in exhibits]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{chr(10).join(parts)}
</body>
</html>
"""


def _summary(groups: Mapping[str, Sequence[Exhibit]], verdicts: Sequence[str]) -> str:
    """Table of contents and of verdicts in one."""
    heads = "".join(f"<th>{_verdict(verdict)}</th>" for verdict in verdicts)
    rows = []
    for number, (heading, exhibits) in enumerate(groups.items(), 1):
        link = f'<a href="#group-{number}">{escape(heading)}</a>'
        rows.append(f'<tr class="group"><td colspan="{len(verdicts) + 1}">{link}</td></tr>')
        for each in exhibits:
            cells = "".join(f"<td>{each.count(verdict)}</td>" for verdict in verdicts)
            if not each.pictures:
                cells = f'<td colspan="{len(verdicts)}">{_verdict("missing")}</td>'
            link = f'<a href="#{escape(each.name)}">{escape(each.name)}</a>'
            about = f'<div class="quiet">{escape(each.caption)}</div>'
            rows.append(f"<tr><td>{link}{about}</td>{cells}</tr>")
    every = [each for exhibits in groups.values() for each in exhibits]
    totals = (sum(each.count(verdict) for each in every) for verdict in verdicts)
    cells = "".join(f"<td>{total}</td>" for total in totals)
    rows.append(f'<tr class="all"><td>all</td>{cells}</tr>')
    return (
        '<nav><table class="summary">\n'
        f"<thead><tr><th>figure</th>{heads}</tr></thead>\n"
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></nav>"
    )


def _section(exhibit: Exhibit) -> str:
    head = (
        f'<section id="{escape(exhibit.name)}">\n<h3>{escape(exhibit.caption)}</h3>\n'
        f'<p class="name">{escape(exhibit.name)}</p>\n'
    )
    failure = f"<p>{escape(exhibit.failure)}</p>\n" if exhibit.failure else ""
    body = f'{failure}<p class="verdict missing">Missing. Make it with:</p>'
    if exhibit.pictures:
        data = base64.b64encode(exhibit.pictures[".svg"].read_bytes()).decode()
        body = (
            f'<div class="picture"><img alt="{escape(exhibit.caption)}" '
            f'src="data:image/svg+xml;base64,{data}"></div>\n{_claims(exhibit)}'
        )
    runs = []
    for run in exhibit.runs:
        rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in run.items())
        runs.append(f"<dl>{rows}</dl>")
    commands = _commands(exhibit.commands)
    if exhibit.larger:
        commands += f"\n<p>{LARGER}</p>\n{_commands(exhibit.larger)}"
    return f'{head}{body}\n<div class="source">{chr(10).join(runs)}\n{commands}</div>\n</section>'


def _commands(lines: Sequence[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def _claims(exhibit: Exhibit) -> str:
    rows = []
    for claim in exhibit.claims:
        measured, published = escape(claim["measured"]), escape(claim["published"] or "")
        rows.append(
            f"<tr><td>{escape(claim['claim'])}</td><td>{_verdict(claim['verdict'])}</td>"
            f'<td data-label="measured">{measured}{_by(claim)}</td>'
            f'<td data-label="published">{published}</td>'
            "</tr>"
        )
    return (
        '<table class="claims">\n<thead><tr><th>claim</th><th>verdict</th><th>measured</th>'
        f"<th>published</th></tr></thead>\n<tbody>\n{chr(10).join(rows)}\n</tbody></table>"
    )


def _by(claim: Mapping[str, Any]) -> str:
    """How many networks decide, and for how many intervals they are corrected."""
    by = claim.get("by")
    return f'<div class="by">{escape(by)}</div>' if by else ""


def _verdict(verdict: str) -> str:
    # A sign beside the colour, for those who see no difference between red and green.
    name = verdict.replace(" ", "-")
    word = f'<span class="word">{escape(verdict)}</span>'
    return f'<span class="verdict {name}">{_SIGNS[verdict]} {word}</span>'


def _prose(text: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))
