import csv
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.evaluation.files import as_csv, as_markdown, as_parquet
from models.evaluation.record import METRICS
from models.evaluation.tables import aggregate, differences

BACKBONES = {"identity": f"dino@{'1' * 40}, objects found by segmenter@{'2' * 64}"}
MODELS = {"base": "flux@3", "ours-1": "LoRA on flux@3", "theirs": "made elsewhere"}


def score(row: str, name: str, identity: float, **more: Any) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(METRICS, 0.5) | {"object_found": True, "dino": None, "identity": identity}
    place = {"row": row, "kind": "background", "object": name, "prompt": 0, "seed": 0, "name": f"{row}.p0.s0"}
    return {**place, "noise_seed": 2**62, "references": 1, **values, **more}


SCORES = [
    score("base", "mug", 0.1),
    score("base", "chair", 0.5),
    score("ours-1", "mug", 0.2),
    score("ours-1", "chair", 0.8, diversity=None),
    score("theirs", "mug", 0.9, noise_seed=None, references=None, diversity=None),
]
TABLE = aggregate(SCORES, ["base", "ours-1", "theirs"])


def test_every_line_of_the_csv_names_its_backbone_and_its_model() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(TABLE, BACKBONES, MODELS))))
    chosen = next(line for line in lines if (line["row"], line["kind"], line["metric"]) == ("base", "all", "identity"))
    assert (chosen["mean"], chosen["low"], chosen["high"]) == ("0.3", "0.1", "0.5")
    assert (chosen["seed_std"], chosen["objects"], chosen["images"]) == ("", "2", "2")
    assert (chosen["backbone"], chosen["model"]) == (BACKBONES["identity"], "flux@3")
    assert not any(line["metric"] == "dino" for line in lines), "nothing was measured by it"


def test_markdown_has_intervals_backbones_and_a_dash_for_what_a_row_lacks() -> None:
    text = as_markdown(TABLE, differences(SCORES, [("ours-1", "base")]), BACKBONES, MODELS, "Evaluation")
    assert f"| row | identity<br>dino@{'1' * 12}, objects found by segmenter@{'2' * 12} | text |" in text
    assert "| base | 0.300 [0.100, 0.500] | 0.500 [0.500, 0.500] |" in text
    assert "| ours-1 - base | 0.200 [0.100, 0.300] |" in text
    theirs = next(line for line in text.splitlines() if line.startswith("| theirs"))
    assert theirs.split(" | ")[METRICS.index("diversity")] == "-", "dino is in no column"
    assert "1 objects, 1 images or 2 objects, 2 images per row" in text
    assert f"- identity: {BACKBONES['identity']}\n" in text and "- ours-1: LoRA on flux@3" in text
    assert "no image has a number" not in text
    one_seed = [{**own, "diversity": None} for own in SCORES]
    text = as_markdown(aggregate(one_seed, ["base"]), {}, {"diversity": "dino@1"}, MODELS, "Evaluation")
    assert "- diversity: dino@1; no image has a number of it (diversity needs several seeds)" in text


def test_the_parquet_file_holds_every_image_and_the_backbones() -> None:
    data = as_parquet(SCORES, BACKBONES)
    table = pq.read_table(pa.BufferReader(data))
    back = table.to_pylist()
    assert [{name: line[name] for name in score("", "", 0)} for line in back] == [dict(line) for line in SCORES]
    assert table.schema.field("identity").metadata == {b"backbone": BACKBONES["identity"].encode()}
    assert as_parquet(SCORES, BACKBONES) == data


def test_no_images_give_files_without_lines() -> None:
    table = aggregate([], ["base"])
    assert table == {"base": {}}
    assert len(as_csv(table, {}, {}).splitlines()) == 1
    assert "backbones" in as_markdown(table, {}, {}, {}, "Evaluation")
    assert pq.read_table(pa.BufferReader(as_parquet([], {}))).num_rows == 0
