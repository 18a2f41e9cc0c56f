"""A run directory -> one HTML page: what was trained, curves, evaluations. Whole in itself, so it can be mailed."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from shardtune.ds_config.resolve import sharding_name
from shardtune.run_dir.curves import as_float, charts, is_metric
from shardtune.run_dir.files import CONFIG, FACTS, RESULTS, read_events, write_atomically
from shardtune.run_dir.progress import slowest

REPORT = "report.html"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2rem auto; padding: 0 1rem; color: #1f2328;
       background: #fff }
h1 { font-size: 1.4rem; margin: 0 }
h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem }
p { margin: .3rem 0; color: #59636e }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(400px, 1fr)); gap: 14px; margin-top: 1rem }
svg { border: 1px solid #d1d9e0; border-radius: 8px; width: 100%; height: auto }
svg text { font-size: 11px; fill: #59636e }
svg .title { font-size: 13px; fill: #1f2328; font-weight: 600 }
svg .grid { stroke: #eaeef2 }
table { border-collapse: collapse }
td, th { border: 1px solid #d1d9e0; padding: 3px 10px; text-align: right }
th { font-weight: 600; background: #f6f8fa }
.texts td { text-align: left; vertical-align: top; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px }
pre { background: #f6f8fa; padding: 10px; overflow-x: auto; font-size: 13px }
"""


def write_report(run_dir: Path) -> Path:
    """Writes RUN_DIR/report.html from what the directory holds so far; returns its path."""
    path = run_dir / REPORT
    facts, results = _json(run_dir / FACTS), _json(run_dir / RESULTS)
    page = render_page(run_dir.name, read_events(run_dir), _text(run_dir / CONFIG), facts or {}, results)
    write_atomically(path, page)
    return path


def render_page(
    name: str,
    events: Sequence[Mapping[str, Any]],
    config: str,
    facts: Mapping[str, Any],
    results: Mapping[str, Any] | None,
) -> str:
    """The page of one run: its name, events, resolved config, its task's facts, and results if it has ended."""
    steps = [event for event in events if event["event"] == "step"]
    evaluations = [event for event in events if event["event"] == "eval"]
    start = next((event for event in reversed(events) if event["event"] == "start"), None)
    sections = [
        f"<h1>{escape(name)}</h1>",
        f"<p>{escape(_summary(start, steps, results))}</p>",
        '<div class="charts">',
        *charts(events),
        "</div>",
        _alerts(events),
        _stragglers(steps),
        _evaluations(evaluations),
        _confusion(evaluations, facts.get("label_names")),
        *_answers(evaluations),
        f"<h2>config.yaml</h2><pre>{escape(config)}</pre>",
    ]
    head = f'<meta charset="utf-8"><title>{escape(name)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(sections)}</body></html>\n'


def _summary(
    start: Mapping[str, Any] | None, steps: Sequence[Mapping[str, Any]], results: Mapping[str, Any] | None
) -> str:
    if start is None or not steps:
        return "No step has been done yet."
    ended = f"ended; best step {results['best_step']}" if results else "not ended"
    trained = start.get("num_trained", start["num_parameters"])
    parameters = f"{start['num_parameters']:,} parameters"
    if trained < start["num_parameters"]:
        parameters = f"{trained:,} of {parameters} trained"
    peak = max(step["memory_bytes"] for step in steps) / 1e9
    return (
        f"step {steps[-1]['step']:,} of {start['num_steps']:,} ({ended}) · {start['num_rows']:,} rows · "
        f"{parameters} · {start['world_size']} ranks on {start['device']} · "
        f"{sharding_name(start['zero_stage'])} · {start['precision']} · "
        f"peak memory of rank 0: {peak:.2f} GB" + _batches(steps)
    )


def _batches(steps: Sequence[Mapping[str, Any]]) -> str:
    """What the batches cost besides; nothing of steps from before it was measured."""
    measured = [step for step in steps if "data_wait_s" in step]
    if not measured:
        return ""
    real, waited_s = (fmean(step[key] for step in measured) for key in ("padding_efficiency", "data_wait_s"))
    return f" · {real:.1%} of the tokens are no padding · a step waits {1000 * waited_s:.2f} ms for its batches"


def _stragglers(steps: Sequence[Mapping[str, Any]], num_named: int = 3) -> str:
    """The ranks that the others have waited for most; nothing of a rank alone."""
    measured = [step for step in steps if "lost_share" in step]
    lost: dict[str, float] = {}
    for step in measured:
        lost[slowest(step)] = lost.get(slowest(step), 0.0) + step["lost_share"] / len(measured)
    named = sorted(lost.items(), key=lambda its: -its[1])[:num_named]
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{share:.1%}</td></tr>" for name, share in named)
    head = "<tr><th>waited for</th><th>part of all ranks' time</th></tr>"
    return f"<h2>Time lost by waiting for a rank</h2><table>{head}{rows}</table>" if rows else ""


def _alerts(events: Sequence[Mapping[str, Any]]) -> str:
    alerts = [event for event in events if event["event"] == "alert"]
    lines = [f"<li>{escape(its['title'])}: {escape(its['text'])}</li>" for its in alerts]
    return f"<h2>Alerts</h2><ul>{''.join(lines)}</ul>" if lines else ""


def _evaluations(evaluations: Sequence[Mapping[str, Any]]) -> str:
    keys = ["loss", *sorted({key for event in evaluations for key, value in event.items() if is_metric(key, value)})]
    if not evaluations:
        return ""
    head = "".join(f"<th>{escape(key)}</th>" for key in ("split", "step", *keys))
    rows = [
        f"<tr><td>{escape(e['split'])}</td><td>{e['step']:,}</td>"
        + "".join(f"<td>{as_float(e.get(key)):.4f}</td>" for key in keys)
        + "</tr>"
        for e in evaluations
    ]
    return f"<h2>Evaluations</h2><table><tr>{head}</tr>{''.join(rows)}</table>"


def _confusion(evaluations: Sequence[Mapping[str, Any]], label_names: Sequence[str] | None) -> str:
    last = next((event for event in reversed(evaluations) if event.get("confusion")), None)
    if last is None or len(last["confusion"]) > 30:
        return ""
    names = [escape(name) for name in label_names or map(str, range(len(last["confusion"])))]
    rows = [
        f"<tr><th>{name}</th>" + "".join(f"<td>{cell:,}</td>" for cell in row) + "</tr>"
        for name, row in zip(names, last["confusion"], strict=True)
    ]
    head = "".join(f"<th>{name}</th>" for name in names)
    title = f"Confusion on {escape(last['split'])}: true labels down, predicted ones across"
    return f"<h2>{title}</h2><table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _answers(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the model answered in each split's newest evaluation, and in its first one beside it."""
    tables = []
    for split in dict.fromkeys(event["split"] for event in evaluations):
        asked = [event for event in evaluations if event["split"] == split and event.get("answers")]
        if not asked:
            continue
        newest, first = asked[-1], asked[0]
        earlier = first["answers"] if first is not newest and len(first["answers"]) == len(newest["answers"]) else None
        columns = ["prompt", *([f"answer at step {first['step']:,}"] if earlier else []), "answer", "reference"]
        rows = []
        for number, its in enumerate(newest["answers"]):
            cells = [its["prompt"], *([earlier[number]["answer"]] if earlier else []), its["answer"], its["reference"]]
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        head = "".join(f"<th>{column}</th>" for column in columns)
        title = f"Answers on {escape(split)}, step {newest['step']:,}"
        tables.append(f'<h2>{title}</h2><table class="texts"><tr>{head}</tr>{"".join(rows)}</table>')
    return tables


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _json(path: Path) -> dict[str, Any] | None:
    value: dict[str, Any] | None = json.loads(text) if (text := _text(path)) else None
    return value
