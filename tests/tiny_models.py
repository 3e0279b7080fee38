"""Model folders of the real classes with tiny random weights, as a hub or a training run would leave them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BitImageProcessorPil,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    PreTrainedTokenizerFast,
    SamConfig,
    SamImageProcessorPil,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    SwinConfig,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from configs.schema import ModelRef
from models.registry import folder_digest
from models.scorers.quality import QualityHead, save_quality_head

WORDS = ["a", "red", "blue", "green", "mug", "chair", "ball", "on", "the", "beach", "in", "snow", "next", "to"]
SPECIAL = ["<pad>", "<start>", "<end>", "<unknown>"]
LAYERS = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
EMBEDDING = 12


def ref_of(folder: Path, architecture: str) -> ModelRef:
    return ModelRef(
        name=f"tiny-{folder.name}",
        architecture=architecture,
        source=f"folder:{folder}",
        revision=folder_digest(folder),
        licence="Apache-2.0",
    )


def clip_folder(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    text = {**LAYERS, "vocab_size": len(SPECIAL) + len(WORDS), "max_position_embeddings": 16}
    config = CLIPConfig(
        text_config={**text, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": SPECIAL.index("<end>")},
        vision_config={**LAYERS, "image_size": 32, "patch_size": 8},
        projection_dim=EMBEDDING,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unknown>",
        model_max_length=16,
    )


def identity_folder(folder: Path, registers: bool = False, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    if registers:
        # Trained at a larger size than its processor gives, as the published ones: positions are interpolated.
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**{**size, "image_size": 56}, num_register_tokens=4))
    else:
        model = Dinov2Model(Dinov2Config(**size))
    model.save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": 32}, crop_size=28).save_pretrained(folder)
    return folder


def quality_folder(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_quality_head(QualityHead(EMBEDDING, hidden=(8,), activation="relu"), folder)
    return folder


def segmenter_folder(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 24, 32],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label={0: "background", 1: "object"},
        label2id={"background": 0, "object": 1},
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def dino_folder(folder: Path, seed: int = 0) -> Path:
    """The first DINO: no pooler."""
    torch.manual_seed(seed)
    ViTModel(ViTConfig(**LAYERS, image_size=32, patch_size=8), add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def detector_folder(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=32,
            patch_size=2,
            embed_dim=8,
            depths=[1, 1, 1],
            num_heads=[1, 2, 2],
            window_size=4,
            out_indices=[2, 3],
        ),
        text_config=BertConfig(**LAYERS, vocab_size=len(SPECIAL) + len(WORDS), max_position_embeddings=32),
        num_feature_levels=2,
        d_model=32,
        num_queries=5,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        max_text_len=16,
    )
    model = GroundingDinoForObjectDetection(config)
    for head in model.bbox_embed:
        # Fresh heads are zero, so that every query would give the same box.
        torch.nn.init.normal_(head.layers[-1].weight)
    model.save_pretrained(folder)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 48}).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def sam_folder(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=16,
            output_channels=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=64,
            patch_size=8,
            window_size=4,
            global_attn_indexes=[0],
            num_pos_feats=8,
            initializer_range=0.5,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
        ),
        initializer_range=0.5,
    )
    SamModel(config).save_pretrained(folder)
    SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def vqa_folder(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = BlipConfig(
        text_config={
            **LAYERS,
            "vocab_size": len(SPECIAL) + len(WORDS),
            "max_position_embeddings": 32,
            "projection_dim": EMBEDDING,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "sep_token_id": SPECIAL.index("<end>"),
            "initializer_range": 0.5,
        },
        vision_config={**LAYERS, "image_size": 32, "patch_size": 8, "initializer_range": 0.5},
        initializer_range=0.5,
        projection_dim=EMBEDDING,
    )
    BlipForQuestionAnswering(config).save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder
