import json
from pathlib import Path

import pytest
from chat_server import GOOD, Server, serving

from models.prompts.chat import Answer, Chat, ChatError, ChatSettings
from models.prompts.server_chat import ServerChat

SETTINGS = ChatSettings(temperature=0.6, top_p=0.9, max_new_tokens=64)


def chat(seed: int = 1, text: str = "captions, please") -> Chat:
    return Chat(({"role": "user", "content": text},), seed)


def client(server: Server, cache: Path | None = None, **changes: object) -> ServerChat:
    settings = {"revision": "1", "concurrency": 4, "retries": 3, "timeout_s": 5.0} | changes
    return ServerChat("small", base_url=server.url, key="secret", cache=cache, **settings)


def test_a_request_says_all_that_its_answer_follows_from() -> None:
    with serving() as server:
        assert client(server).complete([chat(seed=7)], SETTINGS) == [Answer(GOOD)]
    assert server.requests == [
        {
            "model": "small",
            "messages": [{"role": "user", "content": "captions, please"}],
            "temperature": 0.6,
            "top_p": 0.9,
            "max_tokens": 64,
            "seed": 7,
        }
    ]
    assert server.keys == {"Bearer secret"}


def test_answers_come_in_the_order_of_the_chats_and_no_more_at_a_time_than_allowed() -> None:
    with serving(*["truncated", "good", "good"] * 4) as server:
        answers = client(server, concurrency=1).complete([chat(seed) for seed in range(12)], SETTINGS)
        assert [answer.problem for answer in answers] == ["truncated", None, None] * 4
        assert server.busiest == 1
        client(server, concurrency=3).complete([chat(seed) for seed in range(20, 50)], SETTINGS)
        assert 1 <= server.busiest <= 3


@pytest.mark.parametrize("act", ["429", "500", "503", "408", "cut", "timeout"])
def test_what_passes_is_tried_again(act: str) -> None:
    with serving(act, act, slow=0.6) as server:
        assert client(server, timeout_s=0.3).complete([chat()], SETTINGS) == [Answer(GOOD)]
    assert server.counted == {act: 2, "good": 1}


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("429", ["said 429 (2 tries)", "this is error 429", "lower llm_concurrency"]),
        ("500", ["said 500 (2 tries)"]),
        ("timeout", ["did not answer in time (2 tries)", "raise llm_timeout_s"]),
        ("cut", ["cannot be reached (2 tries)"]),
    ],
)
def test_what_does_not_pass_is_an_error_that_a_later_run_may_not_meet(act: str, words: list[str]) -> None:
    with serving(*[act] * 9, slow=0.6) as server, pytest.raises(ChatError) as caught:
        client(server, retries=1, timeout_s=0.3).complete([chat()], SETTINGS)
    assert caught.value.transient
    assert all(word in str(caught.value) for word in [server.url, "answers so far are kept", *words]), caught.value
    assert server.counted == {act: 2}


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("401", ["said 401", "llm_key_variable"]),
        ("403", ["said 403", "llm_key_variable"]),
        ("404", ["said 404", "'small'", "ends in /v1"]),
    ],
)
def test_a_setting_that_is_wrong_is_not_tried_again(act: str, words: list[str]) -> None:
    with serving(*[act] * 9) as server, pytest.raises(ChatError) as caught:
        client(server).complete([chat()], SETTINGS)
    assert not caught.value.transient
    assert all(word in str(caught.value) for word in words), caught.value
    assert server.counted == {act: 1}


@pytest.mark.parametrize("act", ["html", "empty", "silent"])
def test_an_answer_that_is_none_is_no_caption(act: str) -> None:
    with serving(*[act] * 9) as server, pytest.raises(ChatError, match=r"gave (no such answer|an answer without text)"):
        client(server).complete([chat()], SETTINGS)


def test_a_server_that_is_not_there_is_named() -> None:
    with serving() as server:
        url = server.url
    with pytest.raises(ChatError, match=rf"{url} cannot be reached .*start it, or correct llm_base_url") as caught:
        ServerChat("small", "1", url, "secret", None, 1, 1, 1.0).complete([chat()], SETTINGS)
    assert caught.value.transient


def test_one_request_that_the_server_will_not_have_does_not_stop_the_others(tmp_path: Path) -> None:
    with serving("400", "filtered") as server:
        answers = client(server, tmp_path, concurrency=1).complete([chat(1), chat(2), chat(3)], SETTINGS)
    assert [answer.problem for answer in answers] == ["refused", "refused", None]
    assert "this is error 400" in answers[0].text and answers[1].text == "content_filter"
    assert len(list(tmp_path.iterdir())) == 2, "an HTTP error is not kept as an answer"


@pytest.mark.parametrize("act", ["400", "422"])
def test_a_server_that_refuses_every_request_is_one_error(act: str) -> None:
    with serving(*[act] * 9) as server, pytest.raises(ChatError, match=rf"refused every request: HTTP {act}") as caught:
        client(server).complete([chat(1), chat(2), chat(3)], SETTINGS)
    assert not caught.value.transient and "max_new_tokens" in str(caught.value)


def test_a_server_that_took_other_requests_may_refuse_all_of_a_later_round() -> None:
    with serving("good", "400", "400") as server:
        asking = client(server, concurrency=1)
        asking.complete([chat(1)], SETTINGS)
        assert [answer.problem for answer in asking.complete([chat(2), chat(3)], SETTINGS)] == ["refused", "refused"]


def test_answers_of_another_revision_are_asked_again(tmp_path: Path) -> None:
    with serving() as server:
        for revision in ("1", "1", "2"):
            client(server, tmp_path, revision=revision).complete([chat(1)], SETTINGS)
    assert len(server.requests) == 2 and len(list(tmp_path.iterdir())) == 2


def test_any_other_status_is_an_error_with_its_fix() -> None:
    with serving("405") as server, pytest.raises(ChatError, match=r"said 405.*ends in /v1") as caught:
        client(server).complete([chat()], SETTINGS)
    assert not caught.value.transient


def test_an_answer_spent_on_hidden_reasoning_is_truncated() -> None:
    with serving("pondered") as server:
        assert client(server).complete([chat()], SETTINGS) == [Answer("", "truncated")]


def test_an_error_of_the_disk_stops_the_other_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("models.prompts.server_chat.write_atomic", full)
    with serving() as server:
        with pytest.raises(OSError, match="No space left"):
            client(server, tmp_path, concurrency=1).complete([chat(seed) for seed in range(50)], SETTINGS)
        assert len(server.requests) < 10


def test_asking_again_costs_nothing(tmp_path: Path) -> None:
    chats = [chat(seed) for seed in range(5)]
    with serving("truncated") as server:
        first = client(server, tmp_path, concurrency=1).complete(chats, SETTINGS)
    with serving(*["500"] * 99) as dead:
        assert client(dead, tmp_path).complete(chats, SETTINGS) == first
        assert dead.requests == []
    assert len(server.requests) == 5
    kept = [json.loads(path.read_bytes()) for path in tmp_path.iterdir()]
    assert {item["request"]["seed"] for item in kept} == set(range(5))
    assert {item["model"] for item in kept} == {"small-v7"}


def test_equal_requests_are_sent_once_and_other_ones_are_not_answered_from_the_cache(tmp_path: Path) -> None:
    with serving() as server:
        asked = client(server, tmp_path)
        asked.complete([chat(1), chat(1), chat(1)], SETTINGS)
        assert len(server.requests) == 1
        asked.complete([chat(2)], SETTINGS)
        asked.complete([chat(1, "others, please")], SETTINGS)
        asked.complete([chat(1)], ChatSettings(temperature=0.7, top_p=0.9, max_new_tokens=64))
        assert len(server.requests) == 4


def test_what_was_answered_before_an_error_is_kept(tmp_path: Path) -> None:
    chats = [chat(seed) for seed in range(6)]
    with serving("good", "good", "good", *["401"] * 9) as server:
        with pytest.raises(ChatError):
            client(server, tmp_path, concurrency=1).complete(chats, SETTINGS)
        assert len(server.requests) < len(chats), "after an error no new request is begun"
    with serving() as healthy:
        assert client(healthy, tmp_path).complete(chats, SETTINGS) == [Answer(GOOD)] * 6
    assert len(healthy.requests) == 3


def test_a_kept_answer_that_is_not_whole_is_asked_for_again(tmp_path: Path) -> None:
    with serving() as server:
        client(server, tmp_path).complete([chat()], SETTINGS)
        (path,) = tmp_path.iterdir()
        path.write_bytes(path.read_bytes()[:-9])
        assert client(server, tmp_path).complete([chat()], SETTINGS) == [Answer(GOOD)]
    assert len(server.requests) == 2


def test_the_models_of_a_server_are_listed() -> None:
    with serving() as server:
        assert client(server).models() == ["small"]
