"""Complete SD-1.5 and SDXL types of folders of the real classes, tiny and with random weights, IP-Adapter included."""

from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from tiny_models import ref_of
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
)

from configs.schema import ModelRef
from models.unet.customizer import UNetCustomizer
from models.unet.model import UNetModel

WORDS = ["a", "red", "blue", "green", "striped", "mug", "on", "the", "beach", "in", "forest", "blurry", "dark"]
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
QUERIES, RESAMPLED, VISION = 3, 16, 20


def tiny_tokenizer(length: int = 12) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", "</s>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=length
    )


def tiny_unet(sdxl: bool) -> UNet2DConditionModel:
    """SDXL: no attention in the first block, two layers of it in the second, pooled text and sizes beside the time."""
    more = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 10,
        "use_linear_projection": True,
    }
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=(1, 2),
        cross_attention_dim=24 if sdxl else 12,
        **(
            more
            if sdxl
            else {
                "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            }
        ),
    )


def text_config(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=32,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=10,
        eos_token_id=2,
        pad_token_id=0,
    )


def published_ip_adapter(unet: UNet2DConditionModel, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors with the names and the order of the published files, written out."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    width, out, inner = RESAMPLED, unet.config.cross_attention_dim, 64
    shapes = {
        "latents": (1, QUERIES, width),
        "proj_in.weight": (width, VISION),
        "proj_in.bias": (width,),
        "proj_out.weight": (out, width),
        "proj_out.bias": (out,),
        "norm_out.weight": (out,),
        "norm_out.bias": (out,),
    }
    for block in range(4):
        shapes |= {
            f"layers.{block}.0.norm1.weight": (width,),
            f"layers.{block}.0.norm1.bias": (width,),
            f"layers.{block}.0.norm2.weight": (width,),
            f"layers.{block}.0.norm2.bias": (width,),
            f"layers.{block}.0.to_q.weight": (inner, width),
            f"layers.{block}.0.to_kv.weight": (2 * inner, width),
            f"layers.{block}.0.to_out.weight": (width, inner),
            f"layers.{block}.1.0.weight": (width,),
            f"layers.{block}.1.0.bias": (width,),
            f"layers.{block}.1.1.weight": (4 * width, width),
            f"layers.{block}.1.3.weight": (width, 4 * width),
        }
    tensors = {f"image_proj.{name}": draw(*shape) for name, shape in shapes.items()}
    number = 1
    for name in unet.attn_processors:
        if "attn2" in name:
            channels = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            for part in ("to_k_ip", "to_v_ip"):
                tensors[f"ip_adapter.{number}.{part}.weight"] = draw(channels, out)
            number += 2
    return tensors


def build(folder: Path, sdxl: bool) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    unet = tiny_unet(sdxl)
    # Freshly initialised blocks hardly mix tokens; larger projections make what attention does visible in the output.
    for name, weight in unet.named_parameters():
        if ".attn1.to_" in name or ".attn2.to_" in name:
            weight.data *= 3
    unet.save_pretrained(folder / "unet")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.9,
    ).save_pretrained(folder / "vae")
    CLIPTextModel(text_config(12)).save_pretrained(folder / "text_encoder")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    if sdxl:
        CLIPTextModelWithProjection(text_config(12)).save_pretrained(folder / "text_encoder_2")
        tiny_tokenizer().save_pretrained(folder / "tokenizer_2")
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=VISION,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            projection_dim=10,
        )
    ).save_pretrained(folder / "image_encoder")
    size = {"height": 16, "width": 16}
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder / "feature_extractor")
    DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, **SCHEDULE).save_pretrained(
        folder / "scheduler"
    )
    (folder / "ip_adapter").mkdir()
    save_file(published_ip_adapter(unet), folder / "ip_adapter" / "ip-adapter-plus.safetensors")
    return folder


def unet_ref(folder: Path, sdxl: bool = False) -> ModelRef:
    """2-pixel latents, 12 text tokens; knows a red blue green striped mug on the beach in forest blurry dark."""
    return ref_of(build(folder, sdxl), "unet")


def picture(seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def trained(folder: Path) -> UNetCustomizer:
    model = UNetCustomizer.from_pretrained(folder, "cpu", torch.float32)
    model.add_adapter(3, "self_attention", seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.adapter_parameters().values():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def pipeline_of(folder: Path) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """diffusers' own pipeline of the same folder, with the IP-Adapter that it loads itself."""
    model = UNetModel.from_pretrained(folder, "cpu", torch.float32)
    parts = {
        "unet": UNet2DConditionModel.from_pretrained(folder / "unet"),
        "vae": model.vae,
        "text_encoder": model.text_encoders[0],
        "tokenizer": model.tokenizers[0],
        "scheduler": DDPMScheduler.from_pretrained(folder / "scheduler"),
        "image_encoder": model.image_encoder,
        "feature_extractor": model.feature_extractor,
    }
    if model.sdxl:
        more = {"text_encoder_2": model.text_encoders[1], "tokenizer_2": model.tokenizers[1]}
        pipeline = StableDiffusionXLPipeline(**parts, **more)
    else:
        pipeline = StableDiffusionPipeline(**parts, safety_checker=None)
    pipeline.load_ip_adapter(folder, subfolder="ip_adapter", weight_name="ip-adapter-plus.safetensors")
    return pipeline
