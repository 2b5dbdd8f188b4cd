"""Small transformers and what stands beside them: ViT, DeiT, Swin, MobileViT, a DETR decoder, ConvNeXt, a mixer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .classification import ConvNorm, DropPath
from .registry import zoo


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int = 2, fused: bool = False) -> None:
        super().__init__()
        self.num_heads, self.scale, self.fused = num_heads, (dim // num_heads) ** -0.5, fused
        self.qkv = nn.Linear(dim, dim * 3)
        self.attn_drop = nn.Dropout(0.1)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape  # noqa: N806
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        else:
            attn = (q @ k.transpose(-2, -1)) * self.scale
            x = self.attn_drop(attn.softmax(dim=-1)) @ v
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, fused: bool = False) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = (
            nn.LayerNorm(dim),
            Attention(dim, fused=fused),
            nn.LayerNorm(dim),
            Mlp(dim, dim * 2),
        )
        self.drop_path = DropPath(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.img_size = (32, 32)
        self.proj = nn.Conv2d(3, dim, size, size)

    def forward(self, x: Tensor) -> Tensor:
        _, _, H, W = x.shape  # noqa: N806
        assert self.img_size[0] == H, f"Input image size ({H}*{W}) doesn't match model ({self.img_size})."
        return self.proj(x).flatten(2).transpose(1, 2)


@zoo("vit", (1, 3, 32, 32))
class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(8, 32)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 32) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 17, 32) * 0.02)
        self.blocks = nn.Sequential(Block(32), Block(32))
        self.norm, self.head = nn.LayerNorm(32, eps=1e-6), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        cls_token = self.cls_token.expand(x.shape[0], -1, -1)
        x = torch.cat((cls_token, x), dim=1) + self.pos_embed
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0])


@zoo("deit", (1, 3, 32, 32))
class DeiT(nn.Module):
    """A distillation token and two heads; fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(8, 32)
        self.cls_token, self.dist_token = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.zeros(1, 1, 32))
        self.pos_embed = nn.Parameter(torch.randn(1, 18, 32) * 0.02)
        self.blocks = nn.ModuleList([Block(32, fused=True) for _ in range(2)])
        self.norm, self.head, self.head_dist = nn.LayerNorm(32), nn.Linear(32, 10), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        B = x.shape[0]  # noqa: N806
        x = torch.cat((self.cls_token.expand(B, -1, -1), self.dist_token.expand(B, -1, -1), self.patch_embed(x)), dim=1)
        x = x + self.pos_embed
        for blk in self.blocks:
            x = blk(x)
        x = self.norm(x)
        return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2


def window_partition(x: Tensor, size: int) -> Tensor:
    B, H, W, C = x.shape  # noqa: N806
    x = x.view(B, H // size, size, W // size, size, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size, size, C)


def window_reverse(windows: Tensor, size: int, H: int, W: int) -> Tensor:  # noqa: N803
    B = int(windows.shape[0] / (H * W / size / size))  # noqa: N806
    x = windows.view(B, H // size, W // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(B, H, W, -1)


class SwinBlock(nn.Module):
    """Attention in (shifted) windows with a table of relative positions and a mask for what the shift joined."""

    def __init__(self, dim: int, resolution: int, window: int, shift: int) -> None:
        super().__init__()
        self.resolution, self.window, self.shift, self.num_heads = resolution, window, shift, 2
        self.norm1, self.norm2, self.mlp = nn.LayerNorm(dim), nn.LayerNorm(dim), Mlp(dim, dim * 2)
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * window - 1) ** 2, 2) * 0.02)
        coords = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        relative = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0).contiguous() + window - 1
        self.register_buffer("relative_position_index", relative[..., 0] * (2 * window - 1) + relative[..., 1])
        self.register_buffer("attn_mask", self._mask() if shift else None)

    def _mask(self) -> Tensor:
        img = torch.zeros(1, self.resolution, self.resolution, 1)
        slices = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        for count, (h, w) in enumerate((h, w) for h in slices for w in slices):
            img[:, h, w, :] = count
        windows = window_partition(img, self.window).view(-1, self.window * self.window)
        mask = windows.unsqueeze(1) - windows.unsqueeze(2)
        return mask.masked_fill(mask != 0, -100.0).masked_fill(mask == 0, 0.0)

    def attention(self, x: Tensor) -> Tensor:
        B_, N, C = x.shape  # noqa: N806
        qkv = self.qkv(x).reshape(B_, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q * (C // self.num_heads) ** -0.5) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(N, N, -1)
        attn = attn + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if self.attn_mask is not None:
            nW = self.attn_mask.shape[0]  # noqa: N806
            attn = attn.view(B_ // nW, nW, self.num_heads, N, N) + self.attn_mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, self.num_heads, N, N)
        return self.proj((attn.softmax(-1) @ v).transpose(1, 2).reshape(B_, N, C))

    def forward(self, x: Tensor) -> Tensor:
        B, L, C = x.shape  # noqa: N806
        H = W = self.resolution  # noqa: N806
        assert L == H * W, "input feature has wrong size"
        shortcut = x
        x = self.norm1(x).view(B, H, W, C)
        if self.shift > 0:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        windows = window_partition(x, self.window).view(-1, self.window * self.window, C)
        windows = self.attention(windows).view(-1, self.window, self.window, C)
        x = window_reverse(windows, self.window, H, W)
        if self.shift > 0:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(1, 2))
        x = shortcut + x.view(B, H * W, C)
        return x + self.mlp(self.norm2(x))


@zoo("swin", (1, 3, 32, 32))
class Swin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(4, 16)
        self.layers = nn.ModuleList([SwinBlock(16, 8, 4, 0), SwinBlock(16, 8, 4, 2)])
        self.merge_norm, self.reduction = nn.LayerNorm(64), nn.Linear(64, 32, bias=False)
        self.norm, self.avgpool, self.head = nn.LayerNorm(32), nn.AdaptiveAvgPool1d(1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        B, _, C = x.shape  # noqa: N806
        x = x.view(B, 8, 8, C)
        x = torch.cat([x[:, 0::2, 0::2, :], x[:, 1::2, 0::2, :], x[:, 0::2, 1::2, :], x[:, 1::2, 1::2, :]], -1)
        x = self.norm(self.reduction(self.merge_norm(x.view(B, -1, 4 * C))))
        return self.head(torch.flatten(self.avgpool(x.transpose(1, 2)), 1))


@zoo("mobilevit", (1, 3, 32, 32))
class MobileViT(nn.Module):
    """Convolutions for local features, attention over pixels of the same place in every patch, fusion with the input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvNorm(3, 16, 3, 2, act=nn.SiLU), ConvNorm(16, 16, 3, 2, act=nn.SiLU))
        self.conv1 = nn.Sequential(ConvNorm(16, 16, act=nn.SiLU), nn.Conv2d(16, 24, 1, bias=False))
        self.transformer = nn.Sequential(Block(24))
        self.norm = nn.LayerNorm(24)
        self.conv3, self.conv4 = ConvNorm(24, 16, 1, act=nn.SiLU), ConvNorm(32, 16, act=nn.SiLU)
        self.head = nn.Linear(16, 10)
        self.patch = 2

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shortcut, p = x, self.patch
        x = self.conv1(x)
        B, C, H, W = x.shape  # noqa: N806
        new_h, new_w = math.ceil(H / p) * p, math.ceil(W / p) * p
        rows, columns = new_h // p, new_w // p
        interpolate = new_h != H or new_w != W
        if interpolate:
            x = F.interpolate(x, size=(new_h, new_w), mode="bilinear", align_corners=False)
        x = x.reshape(B * C * rows, p, columns, p).transpose(1, 2)
        x = x.reshape(B, C, rows * columns, p * p).transpose(1, 3).reshape(B * p * p, rows * columns, -1)
        x = self.norm(self.transformer(x))
        x = x.contiguous().view(B, p * p, rows * columns, -1).transpose(1, 3)
        x = x.reshape(B * C * rows, columns, p, p).transpose(1, 2).reshape(B, C, new_h, new_w)
        x = self.conv4(torch.cat((shortcut, self.conv3(x)), dim=1))
        return self.head(x.mean([-2, -1]))


class DecoderLayer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, 2, dropout=0.1)
        self.multihead_attn = nn.MultiheadAttention(dim, 2, dropout=0.1)
        self.linear1, self.linear2 = nn.Linear(dim, dim * 2), nn.Linear(dim * 2, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(0.1)

    def forward(self, tgt: Tensor, memory: Tensor, pos: Tensor, query_pos: Tensor) -> Tensor:
        q = k = tgt + query_pos
        tgt = self.norm1(tgt + self.dropout(self.self_attn(q, k, value=tgt)[0]))
        cross = self.multihead_attn(query=tgt + query_pos, key=memory + pos, value=memory)[0]
        tgt = self.norm2(tgt + self.dropout(cross))
        return self.norm3(tgt + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(tgt))))))


@zoo("detr", (1, 3, 32, 32))
class DETR(nn.Module):
    """Learned queries attend to an image's features; classes and boxes per query."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(ConvNorm(3, 16, 3, 2), ConvNorm(16, 32, 3, 2), ConvNorm(32, 32, 3, 2))
        self.input_proj = nn.Conv2d(32, 24, 1)
        self.encoder = nn.TransformerEncoderLayer(24, 2, 48, dropout=0.1)
        self.decoder = nn.ModuleList([DecoderLayer(24), DecoderLayer(24)])
        self.query_embed = nn.Embedding(5, 24)
        self.row_embed, self.col_embed = nn.Parameter(torch.rand(10, 12)), nn.Parameter(torch.rand(10, 12))
        self.class_embed, self.bbox_embed = nn.Linear(24, 4), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.input_proj(self.backbone(x))
        H, W = h.shape[-2:]  # noqa: N806
        pos = (
            torch.cat(
                [self.col_embed[:W].unsqueeze(0).repeat(H, 1, 1), self.row_embed[:H].unsqueeze(1).repeat(1, W, 1)], dim=-1
            )
            .flatten(0, 1)
            .unsqueeze(1)
        )
        memory = self.encoder(pos + h.flatten(2).permute(2, 0, 1))
        query = self.query_embed.weight.unsqueeze(1).repeat(1, x.shape[0], 1)
        tgt = torch.zeros_like(query)
        for layer in self.decoder:
            tgt = layer(tgt, memory, pos, query)
        hs = tgt.transpose(0, 1)
        return {"pred_logits": self.class_embed(hs), "pred_boxes": self.bbox_embed(hs).sigmoid()}


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of an image, spelled out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 0.5))
        self.drop_path = DropPath(0.1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.dwconv(x)
        x = x.permute(0, 2, 3, 1)
        x = self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        if self.gamma is not None:
            x = self.gamma * x
        x = x.permute(0, 3, 1, 2)
        return shortcut + self.drop_path(x)


@zoo("convnext", (1, 3, 32, 32))
def convnext() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=4), LayerNorm2d(16), ConvNeXtBlock(16), LayerNorm2d(16), nn.Conv2d(16, 32, 2, stride=2),
        ConvNeXtBlock(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.LayerNorm(32), nn.Linear(32, 10),
    )  # fmt: skip


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.norm1, self.mlp_tokens = nn.LayerNorm(dim), Mlp(tokens, tokens * 2)
        self.norm2, self.mlp_channels = nn.LayerNorm(dim), Mlp(dim, dim * 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


@zoo("mixer", (1, 3, 32, 32))
class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = PatchEmbed(8, 24)
        self.blocks = nn.Sequential(MixerBlock(16, 24), MixerBlock(16, 24))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x))).mean(dim=1))
