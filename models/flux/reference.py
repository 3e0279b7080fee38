"""Reference images in FLUX attention: the parts that read and give their keys and values.

`separate` (Ours-12B as this project trains it): each reference goes through the transformer on its own, clean, at
timestep 0 and without text. Its keys and values therefore depend on the weights alone: one `ReferenceKeys` serves
every denoising step and every guidance branch. The target's image queries then attend to own text, own image and
references; its text queries to own text and own image, as in masked shared attention.

`joint` (the authors' release): target and references are one sequence under one timestep; see `customizer.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxAttention
from torch import Tensor

from models.flux.attention import Rotary, apply_rope, attend, project_out, project_qkv
from models.flux.layout import image_ids, text_ids


@dataclass(frozen=True)
class Reference:
    """One clean reference as the transformer takes it: tokens (height*width, in_channels), row by row."""

    tokens: Tensor
    height: int
    width: int


@dataclass(frozen=True)
class ReferenceKeys:
    """What a batch of targets sees of its references, by the name of the attention processor.

    keys (with RoPE) and values: (G, R, H, D) of G groups of references; visible: (G, R) bool, false where a group has
    fewer tokens than the longest, or None where all have R. rows (N,) int64: the group that each of the last N samples
    of a batch sees, the samples before them none; None: the batch has G samples, one for each group in order.
    """

    keys: dict[str, Tensor]
    values: dict[str, Tensor]
    visible: Tensor | None
    rows: Tensor | None = None

    def select(self, rows: Tensor) -> "ReferenceKeys":
        """The same for samples that see the groups `rows` (N,), one of them several times as guidance branches do.

        Nothing is copied: at the full size keys and values are gigabytes.
        """
        return replace(self, rows=rows)

    def layer(self, name: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values (N, R, H, D) of one layer and what is visible of them, of the samples that see any.

        Of one group they are views; of several, copies that live as long as the layer works.
        """
        parts = (self.keys[name], self.values[name], self.visible)
        if self.rows is None:
            return parts
        if len(self.keys[name]) == 1:
            return tuple(None if part is None else part.expand(len(self.rows), *part.shape[1:]) for part in parts)
        return tuple(None if part is None else part[self.rows] for part in parts)

    @property
    def bytes(self) -> int:
        return sum(kept.nbytes for part in (self.keys, self.values) for kept in part.values())


def kept_bytes(transformer: FluxTransformer2DModel, tokens: int) -> int:
    """Memory that the keys and values of `tokens` reference tokens take as long as a sampling runs."""
    return len(transformer.attn_processors) * layer_bytes(transformer, tokens)


def layer_bytes(transformer: FluxTransformer2DModel, tokens: int) -> int:
    """The same of one layer."""
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    return 2 * tokens * width * transformer.dtype.itemsize


@dataclass
class Recorded:
    """Image keys, before RoPE, and values (B, N, H, D) of a forward pass, by the name of the attention processor.

    A class of its own, since wrappers of modules hand on copies of plain dictionaries.
    """

    parts: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class ReferenceProcessor:
    """Attention of FLUX double and single blocks; without references it computes what diffusers' own does.

    `joint_attention_kwargs` of the transformer carry what it needs: `text_tokens` (single blocks see text and image
    as one sequence), and either `references` to attend to or a `record` to fill.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
        text_tokens: int = 0,
        references: ReferenceKeys | None = None,
        record: Recorded | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        query, key, value = project_qkv(attn, hidden_states, encoder_hidden_states)
        if record is not None:
            record.parts[self.name] = (key[:, text_tokens:], value[:, text_tokens:])
        if image_rotary_emb is not None:
            query, key = apply_rope(query, image_rotary_emb), apply_rope(key, image_rotary_emb)
        if references is None:
            joint = attend(query, key, value, attention_mask)
        else:
            reference_key, reference_value, visible = references.layer(self.name)
            blind = len(query) - len(reference_key)
            alone = [x[:blind] for x in (query, key, value)]
            query, key, value = (x[blind:] for x in (query, key, value))
            text = attend(query[:, :text_tokens], key, value)
            keys = torch.cat([key, reference_key], dim=1)
            values = torch.cat([value, reference_value], dim=1)
            image = attend(query[:, text_tokens:], keys, values, _key_mask(key.shape[1], visible))
            joint = torch.cat([text, image], dim=1)
            if blind:
                joint = torch.cat([attend(*alone), joint])
        return project_out(attn, joint, None if encoder_hidden_states is None else encoder_hidden_states.shape[1])


def _key_mask(own: int, visible_br: Tensor | None) -> Tensor | None:
    """(B, 1, 1, own + R) bool: all of a sample's own keys and its visible reference keys."""
    if visible_br is None:
        return None
    mine = visible_br.new_ones(visible_br.shape[0], own)
    return torch.cat([mine, visible_br], dim=1)[:, None, None, :]


def install(transformer: FluxTransformer2DModel) -> None:
    """Give every attention module of `transformer` a ReferenceProcessor that knows its name."""
    transformer.set_attn_processor({name: ReferenceProcessor(name) for name in transformer.attn_processors})


def row_offsets(target_height: int, references: Sequence[Reference]) -> list[int]:
    """First row of each reference in the (K+1)H x W layout: below the target and the references before it.

    For references of the target's height h that is (j + 1) * h.
    """
    offsets = [target_height]
    for reference in references:
        offsets.append(offsets[-1] + reference.height)
    return offsets[:-1]


def reference_keys(
    transformer: FluxTransformer2DModel,
    references: Sequence[Sequence[Reference]],
    target_height: int,
    pooled: Tensor,
    guidance: float | None = None,
) -> ReferenceKeys | None:
    """Keys and values of the references of each sample of a batch; None if no sample has any.

    `target_height` is in tokens, `pooled` (1, P) the pooled embedding of the empty prompt, `guidance` the embedded
    guidance of transformers that have one: constants, so that nothing depends on the target's prompt or step.
    References of one size run as one batch. RoPE sees relative positions only, so inside a reference, which attends
    to itself alone, the offset cancels; it is applied to the recorded keys.
    """
    flat = [reference for own in references for reference in own]
    if not flat:
        return None
    offsets = [offset for own in references for offset in row_offsets(target_height, own)]
    by_size: dict[tuple[int, int], list[int]] = {}
    for place, reference in enumerate(flat):
        by_size.setdefault((reference.height, reference.width), []).append(place)

    recorded: list[tuple[list[int], Rotary, dict[str, tuple[Tensor, Tensor]]]] = []
    for (height, width), places in by_size.items():
        tokens = torch.stack([flat[place].tokens for place in places])
        record = Recorded()
        transformer(
            hidden_states=tokens,
            encoder_hidden_states=tokens.new_zeros(len(places), 0, transformer.config.joint_attention_dim),
            pooled_projections=pooled.expand(len(places), -1),
            timestep=tokens.new_zeros(len(places)),
            img_ids=image_ids(height, width, device=tokens.device),
            txt_ids=text_ids(0, device=tokens.device),
            guidance=None if guidance is None else tokens.new_full((len(places),), guidance),
            joint_attention_kwargs={"record": record},
        )
        turned = [transformer.pos_embed(image_ids(height, width, offsets[place], tokens.device)) for place in places]
        rotary = (torch.stack([cos for cos, _ in turned]), torch.stack([sin for _, sin in turned]))
        recorded.append((places, rotary, record.parts))

    counts = [sum(reference.tokens.shape[0] for reference in own) for own in references]
    longest = max(counts)
    visible = None
    if min(counts) < longest:
        columns = torch.arange(longest, device=flat[0].tokens.device)
        visible = columns[None, :] < torch.tensor(counts, device=columns.device)[:, None]
    keys, values = {}, {}
    for name in transformer.attn_processors:
        pieces: dict[int, tuple[Tensor, Tensor]] = {}
        for places, rotary, record in recorded:
            # What a layer recorded goes as soon as it is in its rows: more than one layer twice would be gigabytes.
            key, value = record.pop(name)
            pieces.update(zip(places, zip(apply_rope(key, rotary), value, strict=True), strict=True))
        ordered = [pieces[place] for place in range(len(flat))]
        keys[name] = _in_rows([key for key, _ in ordered], visible, longest)
        values[name] = _in_rows([value for _, value in ordered], visible, longest)
    return ReferenceKeys(keys, values, visible)


def _in_rows(pieces: list[Tensor], visible_br: Tensor | None, longest: int) -> Tensor:
    """Token runs (n, H, D), in the order of the batch, as (B, longest, H, D), zero where not visible."""
    tokens = torch.cat(pieces)
    if visible_br is None:
        return tokens.unflatten(0, (-1, longest))
    rows = tokens.new_zeros(*visible_br.shape, *tokens.shape[1:])
    return rows.index_put((visible_br,), tokens)
