"""A study's report as a page: Markdown with a plot."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from convatlas.plotting import figure_png, plot_style
from convatlas.storage.atomic import atomic_write
from convatlas.storage.records import to_json
from convatlas.studies.report import (
    Interval,
    Report,
    cost_sentence,
    describe_arm,
    verdict_sentence,
)

# Okabe and Ito 2008, without yellow, which is pale on white
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
UNITS = {"test_error": "test error %", "training_error": "training error %", "test_loss": "test loss"}


def write_report(report: Report, folder: Path) -> Path:
    """Write report.md, report.json and plot.png; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "plot.png", draw(report))
    atomic_write(folder / "report.json", to_json(report.document(), indent=1))
    page = folder / "report.md"
    atomic_write(page, markdown(report).encode())
    return page


def markdown(report: Report) -> str:
    study, scale = report.study, report.study.scale(report.scale)
    reductions = [f"- {name}: {text}" for name, text in scale.reduced.items()]
    failures = [f"- {arm}, {message}" for arm, messages in report.failures.items() for message in messages]
    columns, rows = arms_table(report)
    seeds = report.seeds
    described = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    on = f", on {report.data}" if report.data else ""
    sections = [
        f"# {study.id}: {study.question}",
        f"{study.source}. Scale *{report.scale}*{on}; seeds {described}.",
        "![The arms' values, and their curves](plot.png)",
        "## Claims",
        _claims_table(report),
        "Intervals are of the mean difference over training seeds, at the claim's share of 5 % (Holm), and "
        "allow for other test images where a metric has them. A claim is *supported* or *contradicted* at "
        "this scale alone.",
        "## Arms",
        _table(columns, [f"| {' | '.join(row)} |" for row in rows]),
        "Means over seeds with 95 % t intervals; *printed* are the paper's own values.",
        _definitions(report),
    ]
    if reductions:
        sections += ["## What is smaller than in the paper", "\n".join(reductions)]
    if failures:
        sections += ["## Runs that did not end", "\n".join(failures)]
    sections += ["## Cost", f"{cost_sentence(report)}. {_environments(report)}".strip()]
    return "\n\n".join(sections) + "\n"


def _claims_table(report: Report) -> str:
    rows = []
    for judgement in report.judgements:
        claim = judgement.claim
        rows.append(f"| {claim} | {claim.source} | **{judgement.verdict}** | {verdict_sentence(judgement)} |")
    return _table(("claim", "the paper", "verdict", "why"), rows)


def arms_table(report: Report) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The columns, and a row for each arm: means with intervals, beside the paper's values."""
    columns, rows = ["arm"], [[name] for name in report.study.arms_at(report.scale)]
    for metric in report.study.metrics:
        columns.append(UNITS.get(metric, metric))
        for row in rows:
            row.append(format_interval(report.interval(row[0], metric)))
        if not _is_printed(report, metric):
            continue
        columns.append("printed")
        for row in rows:
            printed = report.study.arms[row[0]].printed.get(metric)
            row.append("-" if printed is None else f"{printed:.4g}")
    return tuple(columns), [tuple(row) for row in rows]


def _is_printed(report: Report, metric: str) -> bool:
    return any(metric in arm.printed for arm in report.study.arms_at(report.scale).values())


def format_interval(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.4g}"
    return f"{interval.mean:.4g} ({interval.low:.4g} to {interval.high:.4g})"


def _definitions(report: Report) -> str:
    arms = report.study.arms_at(report.scale)
    return "\n".join(f"- {name}: {describe_arm(arm)}" for name, arm in arms.items())


def _environments(report: Report) -> str:
    """The machines on which the runs were trained."""
    environments = {
        f"{environment['threads']} thread{'s' * (environment['threads'] != 1)}, {environment['units']}, "
        f"torch {environment['torch']}"
        for arm in report.arms.values()
        for environment in (result.environment for result in arm.results.values())
        if environment
    }
    return f"Trained with {'; '.join(sorted(environments))}." if environments else ""


def _table(columns: Sequence[str], rows: Sequence[str]) -> str:
    return "\n".join([f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows])


def draw(report: Report) -> bytes:
    """The arms' values of the study's metric, a dot a seed with the mean's interval; and their curves."""
    num_arms = len(report.study.arms_at(report.scale))
    has_curves = any(result.points for arm in report.arms.values() for result in arm.results.values())
    with plot_style():
        figure = Figure(figsize=(9, 1.6 + 0.26 * num_arms), layout="constrained")
        axes = figure.subplots(1, 1 + has_curves, width_ratios=(3, 2)[: 1 + has_curves], squeeze=False)[0]
        _draw_values(axes[0], report)
        if has_curves:
            _draw_curves(axes[1], report)
        return figure_png(figure)


def _draw_values(axis: Axes, report: Report) -> None:
    metric = report.study.metric
    arms = report.study.arms_at(report.scale)
    for row, (name, arm) in enumerate(arms.items()):
        color = COLORS[row % len(COLORS)]
        observations = report.measurements.get(metric, {}).get(name)
        interval = report.interval(name, metric)
        if observations is not None and interval is not None:
            axis.plot(observations.values, [row] * len(observations.values), "o", ms=3.5, color=color)
            low, high = interval.low, interval.high
            if low is not None and high is not None:
                axis.plot([low, high], [row, row], lw=1.2, color=color, alpha=0.6)
                axis.plot(interval.mean, row, "|", ms=13, mew=1.8, color=color)
        if metric in arm.printed:
            axis.plot(arm.printed[metric], row, "D", ms=6, mfc="none", mec="0.35")
    axis.set_yticks(range(len(arms)), list(arms))
    axis.set_ylim(len(arms) - 0.5, -0.5)
    axis.set(xlabel=UNITS.get(metric, metric))
    printed = "; diamond: printed" if _is_printed(report, metric) else ""
    axis.set_title(f"each seed, mean and 95 % interval{printed}", color="0.35")


def _draw_curves(axis: Axes, report: Report) -> None:
    for row, name in enumerate(report.study.arms_at(report.scale)):
        for result in report.arms[name].results.values():
            points = result.curve("TrainingScores", "top1") or result.curve("val", "top1")
            if points:
                steps, scores = zip(*points, strict=True)
                marker = "o" if len(steps) == 1 else None
                errors = [100 - score for score in scores]
                axis.plot(steps, errors, lw=1.1, color=COLORS[row % len(COLORS)], marker=marker)
    axis.set(xlabel="step", ylabel="error %")
    axis.set_title("training images (evaluation mode)", color="0.35")
