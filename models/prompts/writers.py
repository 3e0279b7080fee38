"""The writer that a recipe names."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError
from configs.schema import ModelRef, Prompts
from models import registry
from models.prompts.chat import ChatModel, ChatSettings
from models.prompts.grammar import GrammarWriter
from models.prompts.language_model import LanguageModelWriter
from models.prompts.writer import CaptionWriter

if TYPE_CHECKING:
    from models.prompts.server_chat import ServerChat


def open_writer(
    section: Prompts, model: ModelRef | None, device: str, options: dict[str, Any], cache: Path
) -> CaptionWriter:
    """`options`: the llm_* settings of the runtime. `cache`: folder of a server's answers.

    Raises ConfigError for a server without address or key, ModelError for a model that cannot be loaded.
    """
    if section.writer == "grammar":
        return GrammarWriter()
    if model is None:
        raise ConfigError(f"prompts.writer is {section.writer!r}, which needs models.writer")
    chat = open_chat(model, section.dtype, device, options, cache)
    settings = ChatSettings(section.temperature, section.top_p, section.max_new_tokens, section.batch_chats)
    return LanguageModelWriter(f"{model.name}@{model.revision}", chat, settings, section.max_words)


def open_chat(model: ModelRef, dtype: str, device: str, options: dict[str, Any], cache: Path) -> ChatModel:
    """A language model in this process, or behind the server of the runtime; errors as `open_writer`."""
    if registry.served_name(model) is None:
        return registry.load(model, device, dtype)
    return server_of(model, options, cache)


def server_of(ref: ModelRef, options: dict[str, Any], cache: Path | None = None) -> "ServerChat":
    """The server that the runtime names, for a model behind one; ConfigError if its address or key is not set.

    `cache` defaults to none being kept.
    """
    from models.prompts.server_chat import ServerChat

    model = registry.served_name(ref)
    if model is None:
        raise ConfigError(f"model {ref.name}: source {ref.source!r}; a model behind a server has server:NAME")
    address, variable = options["llm_base_url"], options["llm_key_variable"]
    if not address:
        raise ConfigError(
            f"runtime: llm_base_url is not set, and {model} is behind a server; name its address there, for example "
            f"http://127.0.0.1:8000/v1"
        )
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(
            f"the environment variable {variable} is not set; put the key of {address} there (any text for a server "
            f"that asks for none), or name another variable as llm_key_variable in the runtime"
        )
    patience = (options["llm_concurrency"], options["llm_retries"], options["llm_timeout_s"])
    return ServerChat(model, ref.revision, address, key, cache, *patience)
