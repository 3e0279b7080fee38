import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.training import Train
from data.digests import DigestCache
from data.pairs import PairOrder
from data.reader import ShardReader
from data.shards import load_index, read_all
from models.training.checkpoints import CheckpointError, checkpoints, newest_step
from models.training.features import FeatureStore
from models.training.pairs import PairMix, PairStore
from models.training.settings import Settings
from models.training.trainer import History, Run, TrainingError, learning_rate, train

torch.set_num_threads(1)
SECTION = Train(
    steps=9, batch=3, optimizer="adamw", learning_rate=0.05, checkpoint_every=2, drop_text=0.2, drop_image=0.2
)


class KilledError(Exception):
    pass


def run_of(dataset: Path, folder: Path, customizer: Any, section: Train = SECTION, seed: int = 0) -> Run:
    features = FeatureStore(folder / "features", load_index(dataset), section, seed)
    features.prepare(customizer, dataset)
    reader = ShardReader(dataset, seed=seed, buffer=4)
    pairs = None
    if section.pairs:
        store = PairStore(folder / "pairs", Path(section.pairs), DigestCache.of_workspace(folder))
        store.prepare(customizer, 8, 8)
        pairs = PairMix(store, PairOrder(len(store), section.pairs_share, seed))
    return Run(customizer, reader, features, section, seed, folder / "checkpoints", pairs=pairs)


@pytest.fixture
def mixed(tmp_path: Path, make_pairs: Any) -> Train:
    """With pairs and with crops."""
    web = make_pairs(tmp_path / "web" / "a.tar", 3).parent
    make_pairs(web / "b.tar", 2)
    return SECTION.model_copy(update={"pairs": str(web), "pairs_share": 0.4, "reference_crops": 2})


@pytest.mark.parametrize("optimizer", ["adamw", "prodigy"])
@pytest.mark.parametrize("killed_at", [1, 2, 5, 8])
@pytest.mark.parametrize(("accumulate", "ema_decay"), [(1, 0.0), (2, 0.7)])
def test_a_killed_and_resumed_run_is_bit_equal_to_an_uninterrupted_one(
    dataset: Path,
    tmp_path: Path,
    make_customizer: Any,
    optimizer: str,
    killed_at: int,
    accumulate: int,
    ema_decay: float,
) -> None:
    """Through several epochs; losses, ledger and weights."""
    rate = 1.0 if optimizer == "prodigy" else 0.05
    section = SECTION.model_copy(
        update={
            "optimizer": optimizer,
            "learning_rate": rate,
            "learning_rate_decay": "linear",
            "accumulate": accumulate,
            "ema_decay": ema_decay,
        }
    )
    whole = make_customizer()
    expected = train(run_of(dataset, tmp_path / "whole", whole, section))

    def kill(row: dict[str, Any]) -> None:
        if row["step"] == killed_at:
            raise KilledError

    with pytest.raises(KilledError):
        train(run_of(dataset, tmp_path / "cut", make_customizer(), section), kill)
    torch.manual_seed(99)
    resumed = make_customizer()
    history = train(run_of(dataset, tmp_path / "cut", resumed, section))
    assert history == expected
    for name, tensor in whole.adapter_state().items():
        assert torch.equal(resumed.adapter_state()[name], tensor)
    assert len(resumed.batches) < len(whole.batches) or killed_at < 2, "work before the checkpoint is not done again"


@pytest.mark.parametrize("killed_at", [1, 4, 7])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_pairs_and_crops_are_resumed_exactly(
    dataset: Path, tmp_path: Path, make_customizer: Any, mixed: Train, killed_at: int, accumulate: int
) -> None:
    section = mixed.model_copy(update={"accumulate": accumulate})
    whole = make_customizer()
    expected = train(run_of(dataset, tmp_path / "whole", whole, section))

    def kill(row: dict[str, Any]) -> None:
        if row["step"] == killed_at:
            raise KilledError

    with pytest.raises(KilledError):
        train(run_of(dataset, tmp_path / "cut", make_customizer(), section), kill)
    resumed = make_customizer()
    assert train(run_of(dataset, tmp_path / "cut", resumed, section)) == expected
    for name, tensor in whole.adapter_state().items():
        assert torch.equal(resumed.adapter_state()[name], tensor)


def test_the_share_of_pairs_is_exact_and_sets_and_pairs_are_drawn_once_an_epoch(
    dataset: Path, tmp_path: Path, customizer: Any, mixed: Train
) -> None:
    section = mixed.model_copy(update={"steps": 50, "batch": 2, "accumulate": 2})
    rows = [row for step in train(run_of(dataset, tmp_path, customizer, section)).ledger for row in step["samples"]]
    pairs = [(row["tar"], row["pair"]) for row in rows if "pair" in row]
    sets = [row["set"] for row in rows if "set" in row]
    assert (len(pairs), len(sets)) == (80, 120)
    assert all(set(Counter(pairs[start : start + 5]).values()) == {1} for start in range(0, 80, 5))
    assert all(Counter(sets[start : start + 8]) == Counter(load_index(dataset).keys) for start in range(0, 120, 8))
    other = run_of(dataset, tmp_path / "other", customizer, section, seed=1)
    drawn = [(row["tar"], row["pair"]) for step in train(other).ledger for row in step["samples"] if "pair" in row]
    assert drawn != pairs


def test_the_ledger_says_which_pair_and_which_crop_every_example_was(
    dataset: Path, tmp_path: Path, customizer: Any, mixed: Train
) -> None:
    run = run_of(dataset, tmp_path, customizer, mixed.model_copy(update={"steps": 40, "max_references": 3}))
    history = train(run)
    store = run.pairs.store
    stored = {(pair.tar, pair.key): pair for pair in map(store.pair, range(len(store)))}
    shard_of = {key: entry.sha256 for entry in load_index(dataset).shards for key in entry.keys}
    dropped, crops = Counter(), Counter()
    for row, batch in zip(history.ledger, customizer.batches, strict=True):
        assert set(row["shards"]) == {shard_of[item["set"]] for item in row["samples"] if "set" in item}
        for place, item in enumerate(row["samples"]):
            if "pair" in item:
                pair = stored[item["tar"], item["pair"]]
                assert torch.equal(batch.targets[place]["tokens"], pair.target["tokens"])
                text = pair.text if item["text"] else pair.no_text
                assert torch.equal(batch.texts[place]["pooled"], text["pooled"])
                assert batch.references[place] == []
                dropped[item["text"]] += 1
                continue
            whole = run.features.image(item["set"], item["target"])
            assert torch.equal(batch.targets[place]["tokens"], whole["tokens"]), "targets are whole images"
            taken = zip(item["references"], item["flipped"], item.get("crops", []), strict=True)
            for (name, flipped, crop), given in zip(taken, batch.references[place], strict=True):
                assert torch.equal(given["tokens"], run.features.image(item["set"], name, flipped, crop)["tokens"])
                crops[crop] += 1
    assert set(crops) == {0, 1} and abs(crops[0] - crops[1]) < 0.4 * crops.total()
    assert 0.1 < dropped[False] / dropped.total() < 0.5, "0.2 without text and 0.05 without anything"
    json.dumps(history.ledger)


def test_a_pair_with_a_loss_that_is_not_finite_is_named(
    dataset: Path, tmp_path: Path, customizer: Any, mixed: Train
) -> None:
    customizer.poison = "a scene b 1"
    with pytest.raises(TrainingError, match=r"loss is nan, at the samples 0001 in the tar [0-9a-f]{64};"):
        train(run_of(dataset, tmp_path, customizer, mixed))


def test_without_pairs_and_crops_the_ledger_says_nothing_of_them(
    dataset: Path, tmp_path: Path, customizer: Any
) -> None:
    rows = [row for step in train(run_of(dataset, tmp_path, customizer)).ledger for row in step["samples"]]
    assert {tuple(sorted(row)) for row in rows} == {("flipped", "references", "set", "target", "text")}


def test_a_finished_run_trains_no_further_step(dataset: Path, tmp_path: Path, make_customizer: Any) -> None:
    first = train(run_of(dataset, tmp_path, make_customizer()))
    again = make_customizer()
    rows: list[dict[str, Any]] = []
    assert train(run_of(dataset, tmp_path, again), rows.append) == first
    assert again.batches == []
    assert rows == first.metrics, "a resumed run reports the steps before"


def test_the_ledger_names_what_every_step_consumed(dataset: Path, tmp_path: Path, customizer: Any) -> None:
    history = train(run_of(dataset, tmp_path, customizer))
    index = load_index(dataset)
    shard_of = {key: entry.sha256 for entry in index.shards for key in entry.keys}
    assert [row["step"] for row in history.ledger] == list(range(9))
    for row, batch in zip(history.ledger, customizer.batches, strict=True):
        assert len(row["samples"]) == 3
        assert set(row["shards"]) == {shard_of[item["set"]] for item in row["samples"]}
        for item, references in zip(row["samples"], batch.references, strict=True):
            assert item["target"].startswith(item["set"] + "-")
            assert item["target"] not in item["references"]
            assert len(item["references"]) == len(references)
    json.dumps(history.ledger)


def test_every_epoch_consumes_every_set_once(dataset: Path, tmp_path: Path, customizer: Any) -> None:
    section = SECTION.model_copy(update={"steps": 8, "batch": 2})
    history = train(run_of(dataset, tmp_path, customizer, section))
    sets = [item["set"] for row in history.ledger for item in row["samples"]]
    assert Counter(sets[:8]) == Counter(sets[8:]) == Counter(load_index(dataset).keys)
    assert sets[:8] != sets[8:]


def test_the_batch_holds_the_features_that_the_ledger_names(dataset: Path, tmp_path: Path, customizer: Any) -> None:
    run = run_of(dataset, tmp_path, customizer, SECTION.model_copy(update={"max_references": 3}))
    history = train(run)
    texts_dropped = references_dropped = 0
    for row, batch in zip(history.ledger, customizer.batches, strict=True):
        for place, item in enumerate(row["samples"]):
            expected = run.features.image(item["set"], item["target"])
            assert torch.equal(batch.targets[place]["tokens"], expected["tokens"])
            named = zip(item["references"], item["flipped"], batch.references[place], strict=True)
            for name, flipped, given in named:
                assert torch.equal(given["tokens"], run.features.image(item["set"], name, flipped)["tokens"])
            number, index = item["target"].removeprefix("set-").split("-")
            prompt = f"a mug {number} {index}" if item["text"] else ""
            assert torch.equal(batch.texts[place]["pooled"], run.features.text(item["set"], prompt)["pooled"])
            texts_dropped += not item["text"]
            references_dropped += not item["references"]
    assert texts_dropped and references_dropped


def test_the_trained_adapter_is_the_moving_average_of_the_weights(
    dataset: Path, tmp_path: Path, make_customizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a <- d a + (1 - d) w with d = min(decay, n / (9 + n)) after the update numbered n from 0, by hand."""
    seen: list[torch.Tensor] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.Optimizer, *args: Any) -> Any:
        out = step(self, *args)
        seen.append(torch.cat([own.detach().flatten() for own in self.param_groups[0]["params"]]).double())
        return out

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    averaged, last = make_customizer(), make_customizer()
    train(run_of(dataset, tmp_path / "average", averaged, SECTION.model_copy(update={"ema_decay": 0.3})))
    weights = list(seen)
    train(run_of(dataset, tmp_path / "last", last))
    expected = weights[0]
    for number, own in enumerate(weights[1:], start=1):
        decay = min(0.3, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * own
    found = torch.cat([tensor.flatten() for tensor in averaged.adapter_state().values()])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    plain = torch.cat([tensor.flatten() for tensor in last.adapter_state().values()])
    torch.testing.assert_close(plain.double(), weights[-1])
    assert not torch.allclose(found, plain, rtol=1e-3)


def test_the_newest_checkpoints_are_kept_as_many_as_asked(dataset: Path, tmp_path: Path, make_customizer: Any) -> None:
    for keep in (1, 3):
        run = replace(
            run_of(dataset, tmp_path / str(keep), make_customizer()), settings=Settings(keep_checkpoints=keep)
        )
        train(run)
        assert len(checkpoints(run.folder)) == keep
        assert newest_step(run.folder) == SECTION.steps


def test_a_sample_has_its_noise_whatever_the_batch(dataset: Path, tmp_path: Path, make_customizer: Any) -> None:
    """Micro-batches of 1 and 3 with the same samples in a step: equal losses but for their summation."""
    histories = []
    for name, batch, accumulate in (("one", 3, 1), ("three", 1, 3)):
        section = SECTION.model_copy(update={"steps": 3, "batch": batch, "accumulate": accumulate})
        histories.append(train(run_of(dataset, tmp_path / name, make_customizer(), section)))
    assert histories[0].ledger == histories[1].ledger
    for one, three in zip(histories[0].metrics, histories[1].metrics, strict=True):
        assert one["loss"] == pytest.approx(three["loss"], rel=1e-5)


def test_training_learns(dataset: Path, tmp_path: Path, customizer: Any) -> None:
    section = SECTION.model_copy(update={"steps": 150, "checkpoint_every": 1000})
    losses = [row["loss"] for row in train(run_of(dataset, tmp_path, customizer, section)).metrics]
    assert sum(losses[-20:]) < 0.4 * sum(losses[:20])


def test_accumulation_gives_the_gradient_of_the_whole_batch(
    dataset: Path, tmp_path: Path, make_customizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without noise, two micro-batches of 2 are one batch of 4."""
    monkeypatch.setattr(torch, "randn", lambda *shape, generator=None: torch.zeros(*shape))
    histories: list[History] = []
    for name, batch, accumulate in (("one", 4, 1), ("two", 2, 2)):
        section = SECTION.model_copy(update={"steps": 3, "batch": batch, "accumulate": accumulate})
        histories.append(train(run_of(dataset, tmp_path / name, make_customizer(), section)))
    for one, two in zip(histories[0].metrics, histories[1].metrics, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
        assert one["gradient_norm"] == pytest.approx(two["gradient_norm"], rel=1e-4)


def test_gradients_are_clipped(dataset: Path, tmp_path: Path, customizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.Optimizer, *args: Any) -> Any:
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        norms.append(math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in parameters)))
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    history = train(run_of(dataset, tmp_path, customizer, SECTION.model_copy(update={"max_grad_norm": 0.01})))
    assert max(norms) <= 0.0101 < max(row["gradient_norm"] for row in history.metrics)


def test_a_loss_that_is_not_a_number_ends_with_the_names_of_its_samples(
    dataset: Path, tmp_path: Path, customizer: Any
) -> None:
    customizer.poison = "a mug 4 1"
    with pytest.raises(TrainingError, match=r"step \d+: loss is nan, at the samples set-4-1; .*lower train\.learning"):
        train(run_of(dataset, tmp_path, customizer, SECTION.model_copy(update={"steps": 60, "drop_text": 0.0})))


def test_a_gradient_that_is_not_a_number_ends_with_the_names_of_the_batch(
    dataset: Path, tmp_path: Path, customizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = type(customizer).losses

    def steep(*args: Any) -> torch.Tensor:
        finite = losses(*args)
        return (finite - finite.detach()).sqrt() + 1

    monkeypatch.setattr(type(customizer), "losses", steep)
    with pytest.raises(TrainingError, match=r"step 0: gradient norm is nan, at the samples set-\d-\d, set-\d-\d, set"):
        train(run_of(dataset, tmp_path, customizer))


def test_a_checkpoint_of_another_run_is_refused(dataset: Path, tmp_path: Path, make_customizer: Any) -> None:
    train(run_of(dataset, tmp_path, make_customizer()))
    assert checkpoints(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"checkpoint of another run \(reader state: seed is 0"):
        train(run_of(dataset, tmp_path, make_customizer(), seed=1))


def test_a_rank_without_samples_is_an_error(dataset: Path, tmp_path: Path, customizer: Any) -> None:
    run = run_of(dataset, tmp_path, customizer)
    empty = ShardReader(dataset, seed=0, rank=0, world_size=9)
    assert len(empty) == 0
    with pytest.raises(TrainingError, match="rank 0 of 9 has no samples"):
        train(Run(customizer, empty, run.features, SECTION, 0, tmp_path / "none"))


LONG = ("set-1-2", "set-4-0", "set-4-1")


def test_images_with_a_prompt_that_is_too_long_are_in_no_step(
    tmp_path: Path, make_customizer: Any, make_dataset: Any
) -> None:
    """Neither as target nor as reference; a set without any other is passed over, and a resumed run does the same."""
    dataset = make_dataset(tmp_path / "dataset", LONG)
    section = SECTION.model_copy(update={"steps": 28, "batch": 1, "checkpoint_every": 3})
    whole = make_customizer()
    history = train(run_of(dataset, tmp_path / "whole", whole, section))
    rows = [row for step in history.ledger for row in step["samples"]]
    used = {row["target"] for row in rows} | {name for row in rows for name in row["references"]}
    assert used.isdisjoint(LONG) and {"set-1-1", "set-1-3"} <= used
    sets = set(load_index(dataset).keys) - {"set-4"}
    assert [set(row["set"] for row in rows[start : start + 7]) for start in range(0, 28, 7)] == [sets] * 4

    def kill(row: dict[str, Any]) -> None:
        if row["step"] == 10:
            raise KilledError

    with pytest.raises(KilledError):
        train(run_of(dataset, tmp_path / "cut", make_customizer(), section), kill)
    resumed = make_customizer()
    assert train(run_of(dataset, tmp_path / "cut", resumed, section)) == history
    for name, tensor in whole.adapter_state().items():
        assert torch.equal(resumed.adapter_state()[name], tensor)


def test_a_dataset_of_prompts_that_are_all_too_long_is_an_error_that_says_so(
    dataset: Path, tmp_path: Path, customizer: Any, make_dataset: Any
) -> None:
    names = [own["sample_id"] for sample in read_all(dataset, load_index(dataset)) for own in sample.record["samples"]]
    long = make_dataset(tmp_path / "long", names)
    with pytest.raises(TrainingError, match=r"none of its images can be trained on: 20 long_prompt; the first: prompt"):
        train(run_of(long, tmp_path, customizer))


def test_the_learning_rate_is_constant_or_falls_to_zero() -> None:
    assert [learning_rate(SECTION, step) for step in (0, 8)] == [0.05, 0.05]
    falling = SECTION.model_copy(update={"learning_rate_decay": "linear", "steps": 10})
    assert [learning_rate(falling, step) for step in (0, 5, 9)] == pytest.approx([0.05, 0.025, 0.005])
