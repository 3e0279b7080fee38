"""Two processes (gloo, CPU) against one: the same losses, adapters and ledgers, but for the order of additions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_flux
import tiny_unet
import torch
from torch import Tensor
from two_processes import in_two_processes

from configs.schema import ModelRef
from configs.training import NoisedReferences, Train
from models.training.checkpoints import load_checkpoint
from models.training.job import TrainingJob, open_run
from models.training.settings import Settings
from models.training.trainer import TrainingError, train

torch.set_num_threads(1)
FLUX = Train(
    steps=4,
    batch=4,
    accumulate=2,
    optimizer="adamw",
    learning_rate=0.01,
    lora_rank=2,
    checkpoint_every=2,
    drop_text=0.2,
    drop_image=0.4,
    ema_decay=0.5,
)
UNET = FLUX.model_copy(
    update={"references": "noised", "noised": NoisedReferences(), "lora_targets": "self_attention", "steps": 1}
)
TWO = {"processes": 2}
SHARED = {"processes": 2, "parallel": "fsdp", "steps": 2, "accumulate": 1}
RUNS: dict[str, tuple[Train, Settings]] = {
    "ddp": (FLUX.model_copy(update=TWO), Settings()),
    "ddp_killed": (FLUX.model_copy(update=TWO), Settings()),
    "fsdp": (FLUX.model_copy(update=SHARED), Settings()),
    "fsdp_checkpointed": (FLUX.model_copy(update=SHARED), Settings(gradient_checkpointing=True)),
    "fsdp_joint": (FLUX.model_copy(update={**SHARED, "references": "joint", "steps": 1}), Settings()),
    "unet": (UNET.model_copy(update=TWO), Settings(gradient_checkpointing=True)),
}


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRef]:
    folder = tmp_path_factory.mktemp("bases")
    return {"flux": tiny_flux.flux_ref(folder / "flux"), "unet": tiny_unet.unet_ref(folder / "unet")}


@pytest.fixture(scope="module")
def job_of(bases: dict[str, ModelRef], dataset: Path) -> Callable[..., TrainingJob]:
    def make(folder: Path, section: Train, settings: Settings) -> TrainingJob:
        base = bases["unet" if section.references == "noised" else "flux"]
        return TrainingJob(
            section=section, seed=3, base=base, workspace=folder, dataset=dataset, folder=folder, settings=settings
        )

    return make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, job_of: Callable[..., TrainingJob]) -> Path:
    """Everything that two processes trained, each run in a folder of its name."""
    root = tmp_path_factory.mktemp("two")

    def work(rank: int) -> None:
        for name, (section, settings) in RUNS.items():
            job = job_of(root / name, section, settings)
            if name == "ddp_killed":
                with pytest.raises(KilledError):
                    train(open_run(job, "cpu"), kill)
            run = open_run(job, "cpu")
            history = train(run)
            (root / name / f"history-{rank}.json").write_text(json.dumps([history.metrics, history.ledger]))
            torch.save(run.customizer.adapter_state(), root / name / f"adapter-{rank}.pt")
            if name == "fsdp_joint":
                sizes = [whole_and_here(own) for own in run.customizer.network.parameters()]
                (root / name / f"sizes-{rank}.json").write_text(json.dumps(sizes))

    in_two_processes(work, root)
    return root


def kill(row: dict[str, Any]) -> None:
    if row["step"] == 2:
        raise KilledError


def whole_and_here(parameter: Tensor) -> tuple[int, int]:
    here = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return parameter.numel(), here.numel()


def history_of(folder: Path, rank: int = 0) -> Any:
    return json.loads((folder / f"history-{rank}.json").read_text())


def adapter_of(folder: Path, rank: int = 0) -> dict[str, Tensor]:
    return torch.load(folder / f"adapter-{rank}.pt", weights_only=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, job_of: Callable[..., TrainingJob]) -> Callable[[Train], Any]:
    """What one process makes of a section: metrics, ledger, adapter."""
    made: dict[str, Any] = {}

    def make(section: Train) -> Any:
        single = section.model_copy(update={"processes": 1, "parallel": "ddp"})
        name = single.model_dump_json()
        if name not in made:
            run = open_run(job_of(tmp_path_factory.mktemp("alone"), single, Settings()), "cpu")
            history = train(run)
            made[name] = (history.metrics, history.ledger, run.customizer.adapter_state())
        return made[name]

    return make


@pytest.mark.parametrize("name", list(RUNS))
def test_two_processes_train_what_one_does(folder: Path, alone: Callable[[Train], Any], name: str) -> None:
    metrics, ledger, adapter = alone(RUNS[name][0])
    found, consumed = history_of(folder / name)
    assert consumed == ledger, "the ledger lists the whole batch"
    assert len({row["loss"] for row in metrics}) == len(metrics) == len(found)
    for expected, row in zip(metrics, found, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert row["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)
    trained = adapter_of(folder / name)
    assert trained.keys() == adapter.keys()
    for key, tensor in adapter.items():
        torch.testing.assert_close(trained[key], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", list(RUNS))
def test_both_processes_end_with_the_same_adapter_and_history(folder: Path, name: str) -> None:
    assert history_of(folder / name, 0) == history_of(folder / name, 1)
    first, second = adapter_of(folder / name, 0), adapter_of(folder / name, 1)
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_a_killed_and_resumed_run_of_two_processes_is_bit_equal_to_an_undisturbed_one(folder: Path) -> None:
    assert history_of(folder / "ddp_killed") == history_of(folder / "ddp")
    killed, whole = adapter_of(folder / "ddp_killed"), adapter_of(folder / "ddp")
    assert all(torch.equal(tensor, killed[key]) for key, tensor in whole.items())


def test_a_checkpoint_of_two_processes_is_finished_by_one(
    folder: Path, job_of: Callable[..., TrainingJob], bases: dict[str, ModelRef]
) -> None:
    """The base shared out among two, or whole on each: the form of a checkpoint is the same."""
    for name in ("ddp", "fsdp"):
        run = open_run(job_of(folder / name, *RUNS[name]), "cpu")
        history = train(run)
        assert [history.metrics, history.ledger] == history_of(folder / name)
        for key, tensor in adapter_of(folder / name).items():
            assert torch.equal(run.customizer.adapter_state()[key], tensor)
    shapes = [
        {key: tensor.shape for key, tensor in load_checkpoint(folder / name / "checkpoints", "cpu")["adapter"].items()}
        for name in ("ddp", "fsdp")
    ]
    assert shapes[0] == shapes[1]


def test_each_of_two_processes_holds_half_of_a_shared_out_base(folder: Path) -> None:
    for rank in (0, 1):
        sizes = json.loads((folder / "fsdp_joint" / f"sizes-{rank}.json").read_text())
        whole, here = (sum(column) for column in zip(*sizes, strict=True))
        assert here < 0.62 * whole


def test_too_few_processes_are_refused(folder: Path, job_of: Callable[..., TrainingJob], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"train\.processes is 2 and 1 are running"):
        train(open_run(job_of(tmp_path, *RUNS["ddp"]), "cpu"))


def test_a_loss_that_is_not_a_number_names_its_sample_on_every_process(
    tmp_path: Path, dataset: Path, make_customizer: Any
) -> None:
    """Whichever process had it."""
    from data.reader import ShardReader
    from data.shards import load_index
    from models.training.features import FeatureStore
    from models.training.trainer import Run

    section = FLUX.model_copy(update={**TWO, "steps": 40, "drop_text": 0.0, "drop_both": 0.0})
    features = FeatureStore(tmp_path / "features", load_index(dataset), section, 0)
    features.prepare(make_customizer(), dataset)

    def work(rank: int) -> None:
        customizer = make_customizer()
        customizer.poison = "a mug 4 1"
        run = Run(customizer, ShardReader(dataset, seed=0), features, section, 0, tmp_path / "checkpoints")
        with pytest.raises(TrainingError, match=r"step \d+: loss is nan, at the samples set-4-1; ") as caught:
            train(run)
        (tmp_path / f"said-{rank}").write_text(str(caught.value))

    in_two_processes(work, tmp_path)
    assert (tmp_path / "said-0").read_text() == (tmp_path / "said-1").read_text()
