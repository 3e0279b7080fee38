"""A very small instruct model that knows one answer by heart, whatever it is asked."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"
HEADER = "\n<<now the assistant says>>\n"
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + HEADER.replace("\n", "\\n") + "' }}{% endif %}"
)
WINDOW = 24
"""Bytes that it looks back; less than the header has, so that no question reaches its answer."""


def save_chat_model(folder: Path, answer: str, steps: int = 150) -> Path:
    """Train byte by byte until the likeliest answer is `answer`; takes a few seconds."""
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=WINDOW,
            max_position_embeddings=8192,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=None,
            bos_token_id=None,
        )
    )
    ids = tokenizer(HEADER + answer + END, return_tensors="pt").input_ids
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(letters)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.add_special_tokens([END])
    return PreTrainedTokenizerFast(tokenizer_object=bytes_only, eos_token=END, chat_template=TEMPLATE)
