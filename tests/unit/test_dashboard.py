"""The Grafana dashboard shows what the code exports."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

from gym_ray.telemetry.metrics import METRICS

PATH = Path(__file__).parents[2] / "deployments" / "grafana" / "gym-ray.json"
DASHBOARD: dict[str, Any] = json.loads(PATH.read_text())

#: Grafana's grid has so many columns.
COLUMNS = 24

EXPORTED = {name: metric for metric in METRICS for name in metric.exported}
SELECTOR = re.compile(r"(ray_\w+)(?:\{(.*?)\})?")
BY = re.compile(r"by \(([\w, ]+)\)")


def expressions() -> list[str]:
    variables = [
        v["query"]["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"
    ]
    targets = [t["expr"] for panel in DASHBOARD["panels"] for t in panel["targets"]]
    return variables + targets


def test_every_expression_names_metrics_and_labels_that_are_exported() -> None:
    for expression in expressions():
        selectors = SELECTOR.findall(expression)
        assert selectors, expression
        for name, matchers in selectors:
            assert name in EXPORTED, expression
            labels = {*EXPORTED[name].labels, "le"}
            assert set(re.findall(r"(\w+)=~?\"", matchers)) <= labels, expression
            for grouping in BY.findall(expression):
                assert {label.strip() for label in grouping.split(",")} <= labels, expression


def test_every_metric_is_on_the_dashboard() -> None:
    text = " ".join(expressions())

    assert [metric.name for metric in METRICS if f"ray_{metric.name}" not in text] == []


def test_counters_are_rates_and_brackets_are_balanced() -> None:
    for expression in expressions():
        assert expression.count("(") == expression.count(")")
        assert expression.count("{") == expression.count("}")
        if "_total" in expression and not expression.startswith("label_values"):
            assert "rate(" in expression


def test_legends_name_labels_that_the_expression_keeps() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            kept = {
                label.strip() for group in BY.findall(target["expr"]) for label in group.split(",")
            }
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept


def test_panels_are_what_grafana_takes() -> None:
    panels = DASHBOARD["panels"]
    assert DASHBOARD["schemaVersion"] >= 36
    assert {"uid", "title", "time", "templating"} <= DASHBOARD.keys()
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["type"] in {"timeseries", "heatmap"}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= COLUMNS
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
