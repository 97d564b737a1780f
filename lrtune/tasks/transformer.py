"""A model of text: the characters that follow, each from those before it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS, WIDTH, HEADS = 4, 128, 4


def transformer(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A decoder-only transformer of 4 layers, width 128 and 4 heads: 0.8 M parameters.

    Takes integer tokens (n, t) of any dtype, t up to the context; gives logits (n, t, outputs).

    Args:
        shape: ``(context,)``.
        outputs: the size of the vocabulary.
    """
    (context,) = shape
    return Transformer(context, outputs)


class Transformer(nn.Module):
    """Pre-norm blocks of causal attention and GELU MLP, no bias anywhere.

    Sources: rotary positions, Su et al. (2021); RMSNorm, Zhang and Sennrich (2019); residual
    outputs initialised smaller with depth, Radford et al. (2019).
    """

    def __init__(self, context: int, vocabulary: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)
        half = WIDTH // HEADS // 2
        angles = torch.outer(torch.arange(context), 10_000.0 ** (-torch.arange(half) / half))
        # Not persistent: they follow from the context, and a checkpoint holds what was learned.
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        signed = torch.cat([-angles.sin(), angles.sin()], 1)
        self.register_buffer("sin", signed, persistent=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                is_residual = name.endswith("out.weight")
                nn.init.normal_(weight, std=0.02 / (2 * LAYERS) ** 0.5 if is_residual else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n, t), integers -> logits (n, t, vocabulary)."""
        cos, sin = self.get_buffer("cos"), self.get_buffer("sin")
        length = tokens.shape[-1]
        if length > len(cos):
            raise ValueError(f"{length} tokens: the context is {len(cos)}")
        hidden: Tensor = self.embed(tokens.long())
        for block in self.blocks:
            hidden = block(hidden, cos[:length], sin[:length])
        logits: Tensor = self.head(self.norm(hidden))
        return logits


class Block(nn.Module):
    """Attention to the past, then an MLP of four times the width."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attention_out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp_norm = nn.RMSNorm(WIDTH)
        self.mlp_in = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.mlp_out = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Hidden (n, t, width), cos and sin (t, width / heads) -> (n, t, width)."""
        split = self.qkv(self.attention_norm(hidden)).unflatten(-1, (3, HEADS, -1))
        parts = split.permute(2, 0, 3, 1, 4)  # (3, n, heads, t, width / heads)
        # The sine is signed, so that swapping the halves of each head is all there is to rotating.
        swapped = parts[:2].roll(cos.shape[1] // 2, -1)
        query, key = torch.addcmul(parts[:2] * cos, swapped, sin)
        mixed = F.scaled_dot_product_attention(query, key, parts[2], is_causal=True)
        hidden = hidden + self.attention_out(mixed.transpose(1, 2).flatten(2))
        inner = F.gelu(self.mlp_in(self.mlp_norm(hidden)))
        outputs: Tensor = hidden + self.mlp_out(inner)
        return outputs
