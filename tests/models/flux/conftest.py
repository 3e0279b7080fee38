"""A complete FLUX folder of the real classes, tiny and with random weights, tokenizers included."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

WORDS = ["a", "red", "blue", "striped", "mug", "on", "the", "beach", "in", "forest", "blurry", "dark"]


def tiny_tokenizer(length: int) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", "</s>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=length
    )


def build(folder: Path, takes_depth: bool, guidance_embeds: bool) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=32 if takes_depth else 16,
        out_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=12,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        shift_factor=0.1,
        scaling_factor=0.9,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=32,
            hidden_size=12,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    t5 = T5EncoderModel(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
    # Freshly initialised blocks hardly mix tokens; larger projections make what attention does visible in the output.
    for name, weight in transformer.named_parameters():
        if ".attn.to_" in name or ".attn.add_" in name:
            weight.data *= 3
    transformer.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    clip.save_pretrained(folder / "text_encoder")
    t5.save_pretrained(folder / "text_encoder_2")
    tiny_tokenizer(8).save_pretrained(folder / "tokenizer")
    tiny_tokenizer(10).save_pretrained(folder / "tokenizer_2")
    FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15).save_pretrained(
        folder / "scheduler"
    )
    return folder


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool, bool], Path]:
    """flux_folder(takes_depth, guidance_embeds): 8-pixel tokens, latent tokens of 16 channels, 10 text tokens."""

    @functools.cache
    def folder(takes_depth: bool, guidance_embeds: bool) -> Path:
        return build(tmp_path_factory.mktemp("flux"), takes_depth, guidance_embeds)

    return folder
