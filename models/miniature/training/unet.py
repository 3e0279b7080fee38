"""The miniature's SD-1.5 type of model: U-Net and text encoder trained together, then an IP-Adapter Plus on top.

Velocities with zero terminal SNR, as Ours-1B's base. The adapter learns from pairs of views: the target is one view,
the image condition another view of the same object, with U-Net, text and image encoder frozen.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModel, CLIPVisionModelWithProjection

from models.flux.layout import unpack
from models.miniature.dataset import Views
from models.miniature.tokenizers import LENGTH, build_clip_text_encoder, build_tokenizer
from models.miniature.training import clip
from models.miniature.training.captions import draw_caption
from models.miniature.training.common import Cost, Draws, fit, save_half, to_tensor
from models.unet.ip_adapter import BLOCKS, HEAD, image_layers, install_ip_adapter, published
from models.unet.sampling import NoiseLevels

BATCH = 32
LEARNING_RATE = 8e-4
DROP_TEXT = 0.1
DROP_IMAGE = 0.1
"""Share of samples without image: its prepared pixels are zero, as where IP-Adapter Plus was trained."""
OBJECT_WEIGHT = 1.0
"""Added loss weight of latents on the object, which depends on the place alone."""
TEXT_WIDTH = 96
WIDTHS = (48, 96, 112)
QUERIES = 8
"""Image tokens."""
RESAMPLED = 64
"""Width of the resampler."""
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


def build_unet() -> UNet2DConditionModel:
    """On 16 x 16 latents; attention at 16, 8 and 4, as SD 1.5 has it at all but its coarsest."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=16,
        out_channels=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=WIDTHS,
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
    )


def build_text_encoder() -> CLIPTextModel:
    return build_clip_text_encoder(TEXT_WIDTH, 3 * TEXT_WIDTH, layers=2)


def build() -> nn.ModuleDict:
    """`unet` and `text`, CLIP's text model."""
    return nn.ModuleDict({"unet": build_unet(), "text": build_text_encoder()})


def build_adapter() -> nn.ModuleDict:
    """`resampler`, and `projections`: the image cross-attention of `build_unet()`, in its order."""
    resampler = IPAdapterPlusImageProjection(
        embed_dims=clip.WIDTH,
        output_dims=TEXT_WIDTH,
        hidden_dims=RESAMPLED,
        depth=BLOCKS,
        dim_head=HEAD,
        heads=RESAMPLED // HEAD,
        num_queries=QUERIES,
    )
    with torch.device("meta"):
        unet = build_unet()
    sizes = [
        unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for name in unet.attn_processors
        if name.endswith("attn2.processor")
    ]
    projections = nn.ModuleList(
        nn.ModuleDict({part: nn.Linear(TEXT_WIDTH, size, bias=False) for part in ("to_k_ip", "to_v_ip")})
        for size in sizes
    )
    return nn.ModuleDict({"resampler": resampler, "projections": projections})


class Batches:
    """Noisy latents of the training views with captions, as both trainings draw them.

    `tokens` (N or more, 64, 64): FLUX's tokens of the N views, of mean 0 and deviation 1.
    """

    def __init__(self, views: Views, tokens: Tensor, count: int) -> None:
        self.views, self.tokens, self.count = views, tokens, count
        self.batch = min(BATCH, count)
        self.specs, self.tokenizer = views.specs(), build_tokenizer(start=True)
        self.levels = NoiseLevels(SCHEDULE)
        cover = nn.functional.avg_pool2d(torch.from_numpy(views.masks[:count]).float()[:, None], 4)
        self.weights = 1 + OBJECT_WEIGHT * cover

    def ids(self, rows: np.ndarray, draws: Draws) -> Tensor:
        """Token ids (B, LENGTH) of captions drawn for the views `rows`; some are empty."""
        captions = []
        for row in rows:
            spec = self.specs[self.views.objects[row]]
            caption = draw_caption(spec, self.views.scenes[row], self.views.other(row), draws.words)
            captions.append("" if draws.words.random() < DROP_TEXT else caption)
        return self.tokenizer(captions, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids

    def loss(self, unet: UNet2DConditionModel, condition: object, rows: np.ndarray, draws: Draws) -> Tensor:
        """Velocity loss of the views `rows` at uniform timesteps; `condition` is the U-Net's encoder_hidden_states."""
        clean = unpack(self.tokens[rows].float(), 8, 8)
        noise = torch.randn(clean.shape, generator=draws.noise)
        times = torch.randint(len(self.levels), (len(rows),), generator=draws.noise)
        noisy = self.levels.noisy(clean, noise, times)
        velocity = unet(noisy, times, encoder_hidden_states=condition, return_dict=False)[0]
        error = (velocity.float() - self.levels.velocity(clean, noise, times)).square().mean(dim=1, keepdim=True)
        weights = self.weights[rows]
        return (weights * error).sum() / weights.sum()


def train(batches: Batches, steps: int, seed: int, work_dir: Path) -> tuple[nn.ModuleDict, Cost]:
    """The text-to-image base; gives `build()`'s nets."""
    torch.manual_seed(seed)
    nets = build()

    def loss_of(draws: Draws) -> Tensor:
        rows = draws.rows(batches.count, batches.batch)
        return batches.loss(nets["unet"], nets["text"](batches.ids(rows, draws)).last_hidden_state, rows, draws)

    return nets, fit("unet", nets, steps, LEARNING_RATE, batches.batch, loss_of, work_dir, seed)


def train_adapter(
    batches: Batches, base: nn.ModuleDict, clip_net: CLIPModel, steps: int, seed: int, work_dir: Path
) -> tuple[nn.ModuleDict, Cost]:
    """The IP-Adapter Plus on the frozen `base`; gives `build_adapter()`'s nets."""
    torch.manual_seed(seed)
    nets, unet = build_adapter(), build_unet()
    unet.load_state_dict(base["unet"].state_dict())
    attach(unet, nets)
    unet.requires_grad_(False).eval()
    nets.requires_grad_(True)
    views = batches.views
    objects = views.objects[: batches.count]
    first, last = np.searchsorted(objects, objects), np.searchsorted(objects, objects, side="right")

    def loss_of(draws: Draws) -> Tensor:
        rows = draws.rows(batches.count, batches.batch)
        shift = 1 + draws.numbers.integers(np.maximum(1, last[rows] - first[rows] - 1))
        others = first[rows] + (rows - first[rows] + shift) % (last[rows] - first[rows])
        kept = torch.rand(len(rows), 1, 1, 1, generator=draws.noise) >= DROP_IMAGE
        with torch.no_grad():
            text = base["text"](batches.ids(rows, draws)).last_hidden_state
            pixels = to_tensor(views.images[others]) * kept
            seen = clip_net.vision_model(pixel_values=pixels, output_hidden_states=True)
        images = nets["resampler"](seen.hidden_states[-2])
        return batches.loss(unet, (text, [images[:, None]]), rows, draws)

    return nets, fit("ip_adapter", nets, steps, LEARNING_RATE, batches.batch, loss_of, work_dir, seed)


def attach(unet: UNet2DConditionModel, nets: nn.ModuleDict) -> None:
    """Make `build_adapter()`'s nets the image cross-attention of `unet`: its processors compute with these weights."""
    install_ip_adapter(unet, _published(nets))
    for processor, own in zip(image_layers(unet).values(), nets["projections"], strict=True):
        processor.to_k_ip[0], processor.to_v_ip[0] = own["to_k_ip"], own["to_v_ip"]


def _published(nets: nn.ModuleDict) -> dict[str, Tensor]:
    projections = {
        f"ip_adapter.{2 * place + 1}.{part}.weight": own[part].weight
        for place, own in enumerate(nets["projections"])
        for part in ("to_k_ip", "to_v_ip")
    }
    return published(projections, nets["resampler"])


def save(vae: AutoencoderKL, nets: nn.ModuleDict, adapter: nn.ModuleDict, clip_net: CLIPModel, folder: Path) -> None:
    """A folder as `models.unet.model` loads it, in float16."""
    save_half(nets["unet"], folder / "unet")
    save_half(nets["text"], folder / "text_encoder")
    save_half(vae, folder / "vae")
    build_tokenizer(start=True).save_pretrained(folder / "tokenizer")
    DDPMScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")
    image_encoder = CLIPVisionModelWithProjection(clip_net.config.vision_config)
    image_encoder.load_state_dict(
        {name: own for name, own in clip_net.state_dict().items() if name in image_encoder.state_dict()}
    )
    save_half(image_encoder, folder / "image_encoder")
    clip.processor().save_pretrained(folder / "feature_extractor")
    (folder / "ip_adapter").mkdir(parents=True, exist_ok=True)
    half = {name: tensor.half() for name, tensor in _published(adapter).items()}
    save_file(half, folder / "ip_adapter" / "ip-adapter-plus.safetensors")
