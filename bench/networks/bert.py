"""Encoders of BERT's shape, from token ids to the pooled output; the weights are random."""

from __future__ import annotations

import torch
from torch import nn

SEQUENCE = 128
VOCABULARY = 30522
# layers, width, heads, width of the feed-forward part
SIZES = {"bert_base": (12, 768, 12, 3072), "minilm_l6": (6, 384, 12, 1536)}


class Layer(nn.Module):
    """Attention and a feed-forward part, each added to its input and normalized. [B, S, C] -> [B, S, C]"""

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm_attention, self.norm_out = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)
        self.gelu = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, c = x.shape
        q, k, v = (p(x).view(b, s, self.heads, c // self.heads).transpose(1, 2) for p in (self.query, self.key, self.value))
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        x = self.norm_attention(x + self.out(attended.transpose(1, 2).reshape(b, s, c)))
        return self.norm_out(x + self.down(self.gelu(self.up(x))))


class Encoder(nn.Module):
    """int64 [B, S] token ids -> float32 [B, C]"""

    def __init__(self, layers: int, width: int, heads: int, inner: int):
        super().__init__()
        self.words, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(512, width)
        self.register_buffer("order", torch.arange(SEQUENCE)[None])
        self.norm = nn.LayerNorm(width, 1e-12)
        self.layers = nn.Sequential(*[Layer(width, heads, inner) for _ in range(layers)])
        self.pooler = nn.Linear(width, width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.layers(self.norm(self.words(ids) + self.positions(self.order)))
        return torch.tanh(self.pooler(x[:, 0]))
