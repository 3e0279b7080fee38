"""Word-level tokenizers of the miniature: one token per word of the world's vocabulary."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

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


def build_clip_text_encoder(width: int, feedforward: int, layers: int) -> CLIPTextModel:
    """An untrained CLIP text model for `build_tokenizer(start=True)`, with 4 heads."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary_size(),
            hidden_size=width,
            intermediate_size=feedforward,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            hidden_act="gelu",
            pad_token_id=SPECIAL.index("<pad>"),
            bos_token_id=SPECIAL.index("<start>"),
            eos_token_id=SPECIAL.index("<end>"),
        )
    )
