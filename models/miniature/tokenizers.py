"""Word-level tokenizers of the miniature: one token per word of the world's vocabulary."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from models.miniature.language import vocabulary

SPECIAL = ("<pad>", "<unk>", "<start>", "<end>")
LENGTH = 28
"""Tokens of a text, padding included, for CLIP and T5 alike; the longest caption of the world takes 27."""


def vocabulary_size() -> int:
    return len(SPECIAL) + len(_words())


def _words() -> list[str]:
    return [*vocabulary(), ","]


def build_tokenizer(start: bool) -> PreTrainedTokenizerFast:
    """Lower-cased words and commas, `<unk>` for others, `<end>` behind; with `start`, `<start>` before (CLIP)."""
    words = [*SPECIAL, *_words()]
    ids = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()],
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>" if start else "$A <end>",
        special_tokens=[("<start>", ids["<start>"]), ("<end>", ids["<end>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=LENGTH,
        padding_side="right",
    )
