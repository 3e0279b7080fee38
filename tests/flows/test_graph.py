"""The stage graph is dvc.yaml, and a signature follows exactly what DVC tracks."""

from pathlib import Path

import pytest
import yaml
from fake_workspace import activate, bare_workspace

from configs.errors import ConfigError
from configs.load import load_recipe
from data.provenance import signature_of
from flows.graph import Graph, load_graph, tracked_recipe, tracked_values
from flows.workspace import PROJECT

STAGES = ("assets", "prompts", "render", "generate", "score", "select", "shard", "train", "evaluate", "report")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return load_graph(PROJECT)


def test_the_stages_come_in_an_order_in_which_each_follows_its_inputs(graph: Graph) -> None:
    assert set(graph.names) == set(STAGES)
    for node in graph.stages:
        assert all(graph.names.index(name) < graph.names.index(node.name) for name in node.inputs)


def test_dvc_depends_on_the_index_and_the_statement_of_every_input(graph: Graph) -> None:
    stanzas = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    for node in graph.stages:
        wanted = {f"artifacts/{name}/index.json" for name in node.inputs}
        wanted |= {f"artifacts/provenance/{name}.intoto.json" for name in node.inputs}
        assert set(stanzas[node.name].get("deps", [])) == wanted
        assert stanzas[node.name]["cmd"] == f"python -m flows.stage {node.name}"
        assert stanzas[node.name]["outs"] == [
            f"artifacts/{node.name}",
            f"artifacts/provenance/{node.name}.intoto.json",
        ]


def test_every_stage_tracks_its_own_section_and_version(graph: Graph) -> None:
    for node in graph.stages:
        assert node.name in node.keys_of("configs/recipe.yaml")
        assert node.keys_of("configs/versions.yaml") == (node.name,)


def test_every_stage_has_a_version() -> None:
    assert set(yaml.safe_load((PROJECT / "configs/versions.yaml").read_text())) == set(STAGES)


def test_until_takes_what_a_stage_needs_and_no_more(graph: Graph) -> None:
    assert graph.until("render") == ("assets", "render")
    assert graph.until("score") == ("assets", "prompts", "render", "generate", "score")
    assert graph.until(None) == graph.names
    with pytest.raises(ConfigError, match=r"'rendre'.*known: .*render"):
        graph.until("rendre")


def signatures(graph: Graph, folder: Path) -> dict[str, str]:
    """Of all stages, if each input index were named by the signature of its stage."""
    found: dict[str, str] = {}
    for node in graph.stages:
        found[node.name] = signature_of(
            node.name, tracked_values(node, folder), {name: found[name] for name in node.inputs}
        )
    return found


@pytest.fixture
def project_like(tmp_path: Path) -> Path:
    bare_workspace(tmp_path)
    (tmp_path / "dvc.yaml").write_text((PROJECT / "dvc.yaml").read_text())
    return tmp_path


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("select.min_quality=5.25", "select"),
        ("generate.msa=false", "generate"),
        ("train.steps=7", "train"),
        ("train.reference_crops=2", "train"),
        ("prompts.scenes=4", "prompts"),
        ("report.max_sets=3", "report"),
        ("render.fov_deg=50", "render"),
        ("evaluate.seeds=[4]", "evaluate"),
    ],
)
def test_a_setting_changes_its_stage_and_what_depends_on_it_and_nothing_else(
    graph: Graph, project_like: Path, override: str, first: str
) -> None:
    before = signatures(graph, project_like)
    after = signatures(graph, activate(project_like, override))
    changed = {name for name in graph.names if before[name] != after[name]}
    assert changed == {first, *graph.descendants(first)}


def test_a_threshold_never_runs_the_scores_again(graph: Graph) -> None:
    assert "score" not in graph.descendants("select")
    assert "generate" not in graph.descendants("select")


def test_a_version_changes_its_stage(graph: Graph, project_like: Path) -> None:
    before = signatures(graph, project_like)
    path = project_like / "configs" / "versions.yaml"
    versions = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(versions | {"score": versions["score"] + 1}))
    after = signatures(graph, project_like)
    assert {name for name in graph.names if before[name] != after[name]} == {"score", *graph.descendants("score")}


def test_a_model_revision_changes_the_stages_that_use_the_model(graph: Graph, project_like: Path) -> None:
    before = signatures(graph, project_like)
    recipe = yaml.safe_load((project_like / "configs/recipe.yaml").read_text())
    recipe["models"]["segmenter"]["revision"] = "f" * 64
    (project_like / "configs/recipe.yaml").write_text(yaml.safe_dump(recipe))
    after = signatures(graph, project_like)
    assert {name for name in graph.names if before[name] != after[name]} == {"evaluate", "report"}


def test_the_failure_budget_is_no_part_of_a_signature(graph: Graph, project_like: Path) -> None:
    before = signatures(graph, project_like)
    assert signatures(graph, activate(project_like, "render.max_failed_fraction=0.9")) == before


def test_a_tracked_recipe_holds_the_parts_of_the_inputs_too(graph: Graph) -> None:
    recipe = tracked_recipe(graph, "generate", load_recipe("miniature"))
    assert recipe.render.views_per_set == 3
    assert recipe.models.generator.name
    for missing in ("recipe.score", "models.clip"):
        with pytest.raises(ConfigError, match=missing):
            _ = recipe.score if missing == "recipe.score" else recipe.models.clip


def test_a_default_does_not_stand_in_for_an_untracked_value(tmp_path: Path) -> None:
    stages = {"report": {"cmd": "x", "params": [{"configs/recipe.yaml": ["report"]}]}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    recipe = tracked_recipe(load_graph(tmp_path), "report", load_recipe("miniature", ("seed=7",)))
    with pytest.raises(ConfigError, match=r"recipe\.seed"):
        _ = recipe.seed


def test_a_folder_without_a_graph_is_no_workspace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="syncd run --workspace"):
        load_graph(tmp_path)


def test_a_circle_is_named(tmp_path: Path) -> None:
    stages = {name: {"cmd": "x", "deps": [f"artifacts/{other}/index.json"]} for name, other in ("ab", "ba")}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    with pytest.raises(ConfigError, match="wait for each other: a, b"):
        load_graph(tmp_path)
