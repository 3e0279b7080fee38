from pathlib import Path

import pytest
import torch
from chat_model import save_chat_model
from chat_server import GOOD
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from configs.schema import ModelRef
from models import registry
from models.prompts.chat import Answer, Chat, ChatSettings
from models.prompts.local_chat import LocalChat, SeededChoice

GREEDY = ChatSettings(temperature=0, max_new_tokens=80)
WILD = ChatSettings(temperature=2.0, top_p=1.0, max_new_tokens=24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("chat") / "small-instruct", GOOD)


@pytest.fixture(scope="module")
def model(folder: Path) -> LocalChat:
    return LocalChat.from_pretrained(folder, "cpu", torch.float32)


def chats(*seeds: int) -> list[Chat]:
    return [Chat(({"role": "user", "content": f"question {seed % 7} " * (1 + seed % 5)},), seed) for seed in seeds]


def test_the_answer_comes_without_the_question_and_without_special_tokens(model: LocalChat) -> None:
    assert model.complete(chats(1, 2, 3), GREEDY) == [Answer(GOOD)] * 3


def test_an_answer_that_meets_the_limit_is_marked(model: LocalChat) -> None:
    (answer,) = model.complete(chats(1), ChatSettings(temperature=0, max_new_tokens=20))
    assert answer == Answer(GOOD[:20].strip(), "truncated")


def test_each_chat_has_its_own_randomness_whatever_is_beside_it(model: LocalChat) -> None:
    together = model.complete(chats(1, 2, 3, 4, 5), WILD)
    assert len(set(together)) > 3
    assert model.complete(chats(1, 2, 3, 4, 5), WILD) == together
    assert model.complete(chats(4), WILD) + model.complete(chats(2), WILD) == [together[3], together[1]]
    assert model.complete(chats(1, 2, 3, 4, 5), ChatSettings(2.0, 1.0, 24, batch=2)) == together


def test_what_is_beside_a_chat_does_not_reach_its_answer(tmp_path: Path) -> None:
    """With a model that looks at everything before it, padding included if that were not masked."""
    tokenizer = AutoTokenizer.from_pretrained(save_chat_model(tmp_path / "small", GOOD, steps=0))
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.6,
        eos_token_id=tokenizer.eos_token_id,
    )
    full = LocalChat(LlamaForCausalLM(config), tokenizer)
    short, long = (Chat(({"role": "user", "content": "a mug " * count},), 1) for count in (1, 9))
    settings = ChatSettings(temperature=0, max_new_tokens=24)
    together = full.complete([short, long], settings)
    assert together == full.complete([short], settings) + full.complete([long], settings)
    assert together[0] != together[1], "it does look at the question"


def test_the_global_generator_is_left_alone(model: LocalChat) -> None:
    before = torch.random.get_rng_state()
    model.complete(chats(1), WILD)
    assert torch.equal(before, torch.random.get_rng_state())


def test_draws_follow_the_scores() -> None:
    probabilities = torch.tensor([0.0, 0.1, 0.6, 0.0, 0.3, 0.0])
    choose = SeededChoice(list(range(4000)))
    drawn = choose(torch.empty(0), probabilities.log().expand(4000, -1)).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=6) / 4000
    assert torch.allclose(shares, probabilities, atol=0.03) and (shares[probabilities == 0] == 0).all()


def test_a_model_without_chat_template_is_refused_through_the_registry(folder: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    ref = ModelRef(
        name="base",
        architecture="causal_lm",
        source=f"folder:{tmp_path}",
        revision=registry.folder_digest(tmp_path),
        licence="Apache-2.0",
    )
    with pytest.raises(registry.ModelError, match=r"model base: .* no chat template; use an instruct model"):
        registry.load(ref, "cpu", "float32")
