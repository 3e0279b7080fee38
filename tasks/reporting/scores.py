"""Score histograms with the thresholds of the recipe."""

import json

from markupsafe import Markup

from tasks.reporting.charts import histogram

FILE = "histograms.json"
TITLES = {
    "quality": "quality",
    "identity": "identity: mean to the rest of the set",
    "identity_pair": "identity of every pair",
    "identity_masked": "identity, background masked",
    "clip_image": "CLIP image: mean to the rest of the set",
    "clip_text": "CLIP text: image and prompt",
    "background_pair": "similarity of every pair of backgrounds",
    "area": "object share of the frame",
    "cut_off": "share of the object's outline on the border",
    "saturation": "saturation",
    "clipped": "share of values 0 or 255",
}


def charts(data: bytes) -> list[Markup]:
    """One chart per score of `histograms.json` (tasks/select.py)."""
    graphs = json.loads(data)
    names = [name for name in TITLES if name in graphs] + sorted(set(graphs) - set(TITLES))
    return [
        histogram(
            TITLES.get(name, name),
            graphs[name]["edges"],
            graphs[name]["all"],
            graphs[name]["kept"],
            _named(graphs[name]["thresholds"]),
        )
        for name in names
    ]


def _named(thresholds: dict[str, float]) -> dict[str, float]:
    """`min_quality` and `max_identity` as `min` and `max`: the chart's title says of what."""
    return {name.partition("_")[0]: value for name, value in thresholds.items()}
