"""A decoder of Llama's shape: root mean square norms, rotary positions, shared keys and values, a causal mask, gates with SiLU."""

from __future__ import annotations

import torch
from torch import nn


class Norm(nn.Module):
    """Written out, as models that are older than torch.nn.RMSNorm have it."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


def rotated(x):
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


class Layer(nn.Module):
    """[B, S, width] -> [B, S, width]"""

    def __init__(self, width: int, heads: int, shared: int, inner: int, norm):
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, width // heads
        self.norm_attention, self.norm_mlp = norm(width), norm(width)
        kv = shared * self.size
        self.q, self.k, self.v, self.out = (nn.Linear(width, n, bias=False) for n in (width, kv, kv, width))
        self.gate, self.up, self.down = (nn.Linear(*n, bias=False) for n in ((width, inner), (width, inner), (inner, width)))

    def forward(self, x, cos, sin):
        b, n, _ = x.shape
        h = self.norm_attention(x)
        q, k, v = (f(h).view(b, n, -1, self.size).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = (t * cos + rotated(t) * sin for t in (q, k))
        k, v = (t[:, :, None].expand(-1, -1, self.heads // self.shared, -1, -1).reshape(b, self.heads, n, self.size) for t in (k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, n, -1))
        h = self.norm_mlp(x)
        return x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))


class Decoder(nn.Module):
    """Token ids [B, S] -> logits [B, S, words]."""

    def __init__(self, layers: int = 2, width: int = 64, heads: int = 4, shared: int = 2, inner: int = 96, words: int = 50, norm=Norm):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.layers = nn.ModuleList(Layer(width, heads, shared, inner, norm) for _ in range(layers))
        self.norm, self.head = norm(width), nn.Linear(width, words, bias=False)
        size = width // heads
        self.register_buffer("frequencies", 1 / (10000 ** (torch.arange(0, size, 2) / size)))

    def forward(self, ids):
        angles = torch.arange(ids.shape[1])[:, None] * self.frequencies
        angles = torch.cat((angles, angles), -1)
        x = self.words(ids)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin())
        return self.head(self.norm(x))
