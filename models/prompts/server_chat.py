"""Chats with any server that speaks OpenAI's chat protocol; answers are kept, so that asking again costs nothing."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai

from data.ids import canonical_json, digest_of
from data.shards import write_atomic
from models.prompts.chat import Answer, Chat, ChatError, ChatSettings

FINISHED = {"stop": None, "length": "truncated", "content_filter": "refused"}
"""finish_reason -> problem of the answer; with any other, nothing says that the answer is whole."""
REFUSED = "refused by status"
"""Stands for the finish_reason where the server refused the request itself."""


class ServerChat:
    """`concurrency` requests at a time, each tried again by the client with growing pauses.

    `cache`: folder of one JSON file per answered request, named by the sha256 of the request's body and `revision`,
    which says what is behind the model's name; None keeps none. The address of the server is no part of it: where a
    model runs does not change what it is asked.
    """

    def __init__(
        self,
        model: str,
        revision: str,
        base_url: str,
        key: str,
        cache: Path | None,
        concurrency: int,
        retries: int,
        timeout_s: float,
    ) -> None:
        self.model, self.revision, self.base_url, self.cache = model, revision, base_url, cache
        self.concurrency, self.retries = concurrency, retries
        self._accepted = False
        self._client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=retries, timeout=timeout_s)

    def complete(self, chats: Sequence[Chat], settings: ChatSettings) -> list[Answer]:
        """Answers in the order of the chats. After an error no new request is begun; what was answered is kept."""
        asked_for = [self._body(chat, settings) for chat in chats]
        names = [digest_of({"revision": self.revision, **body}) for body in asked_for]
        bodies = dict(zip(names, asked_for, strict=True))
        with ThreadPoolExecutor(self.concurrency) as pool:
            asked = {name: pool.submit(self._kept_or_asked, name, body) for name, body in bodies.items()}
            try:
                replies = {name: future.result() for name, future in asked.items()}
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        self._check_not_all_refused(list(replies.values()))
        return [_answer(replies[name]) for name in names]

    def _check_not_all_refused(self, replies: list[dict[str, Any]]) -> None:
        """A setting that the server has not is no fault of an object: it would refuse all of them, one by one."""
        refused = [reply for reply in replies if reply["finish_reason"] == REFUSED]
        self._accepted |= len(refused) < len(replies)
        if len(refused) > 1 and not self._accepted:
            fix = "check max_new_tokens, temperature and the model's context against what the server takes"
            raise self._error("refused every request", refused[0]["text"], fix, transient=False)

    def models(self) -> list[str]:
        """What the server says it serves."""
        try:
            with self._told():
                return sorted(model.id for model in self._client.models.list())
        except openai.APIStatusError as error:
            raise self._error("does not list its models", error, "check llm_base_url", transient=False) from error

    def _body(self, chat: Chat, settings: ChatSettings) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": list(chat.messages),
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_new_tokens,
            "seed": chat.seed,
        }

    def _kept_or_asked(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        path = self.cache / f"{name}.json" if self.cache else None
        kept = _read(path) if path else None
        if kept is None:
            kept = self._ask(body)
            if path and kept["finish_reason"] in FINISHED:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, canonical_json({"request": body, "revision": self.revision, **kept}))
        return kept

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """{"text", "finish_reason", "model", "system_fingerprint"} as the server gave them.

        A request that the server will not have (HTTP 400, 422) is an answer of its own: the other objects go on.
        """
        try:
            with self._told():
                reply = self._client.chat.completions.create(**body)
                choice = reply.choices[0]
                text, reason = choice.message.content, choice.finish_reason
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return {"text": f"HTTP {error.status_code}: {error.message}", "finish_reason": REFUSED}
        if reason == "content_filter":
            text = text or "content_filter"
        if reason == "length" and text is None:
            text = ""  # all of it was spent on reasoning that is not shown
        if not isinstance(text, str):
            raise self._error("gave an answer without text", reason, "check the model")
        return {
            "text": text,
            "finish_reason": reason,
            "model": reply.model,
            "system_fingerprint": reply.system_fingerprint,
        }

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The client's errors as ChatError, each with its fix; what is wrong with one request alone passes."""
        try:
            yield
        except openai.APITimeoutError as error:
            raise self._error(
                "did not answer in time", error, "raise llm_timeout_s or lower llm_concurrency"
            ) from error
        except openai.APIConnectionError as error:
            raise self._error(
                "cannot be reached", error.__cause__ or error, "start it, or correct llm_base_url"
            ) from error
        except (openai.RateLimitError, openai.InternalServerError) as error:
            raise self._error(f"said {error.status_code}", error, "wait, or lower llm_concurrency") from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            fix = "put a valid key into the environment variable that llm_key_variable names"
            raise self._error(f"said {error.status_code}", error, fix, transient=False) from error
        except openai.NotFoundError as error:
            fix = f"name a model of this server in place of {self.model!r}, or correct llm_base_url (it ends in /v1)"
            raise self._error("said 404", error, fix, transient=False) from error
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            raise
        except openai.APIStatusError as error:
            fix = "check that llm_base_url is a server of OpenAI's protocol (it ends in /v1)"
            raise self._error(f"said {error.status_code}", error, fix, transient=False) from error
        except (openai.APIError, json.JSONDecodeError, AttributeError, TypeError, IndexError) as error:
            raise self._error("gave no such answer", error, "check that llm_base_url is such a server") from error

    def _error(self, what: str, detail: object, fix: str, transient: bool = True) -> ChatError:
        tries = f" ({self.retries + 1} tries)" if transient and self.retries else ""
        return ChatError(
            f"the language model server {self.base_url} {what}{tries}: {str(detail)[:300]}; {fix} (answers so far are "
            f"kept)",
            transient,
        )


def _answer(reply: dict[str, Any]) -> Answer:
    reason = reply["finish_reason"]
    return Answer(reply["text"], "refused" if reason == REFUSED else FINISHED.get(reason, "truncated"))


def _read(path: Path) -> dict[str, Any] | None:
    """A kept answer; None if there is none, or it is not whole."""
    try:
        kept = json.loads(path.read_bytes())
        return {"text": str(kept["text"]), "finish_reason": kept["finish_reason"]}
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None
