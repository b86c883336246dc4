"""Frozen encoding: slices per second, against this machine's matrix products and against timm in float32.

    python benchmarks/encode.py
    python benchmarks/encode.py --backbones B --sizes 64 --batches 64

Of a slice of ``size`` pixels one token covers ``token stride`` pixels, as in a network. ``of the peak`` compares the
arithmetic of the transformer's matrix products (two operations per weight and token, and those of the attention) with square
matrix products in the same precision. timm gets the same enlarged slices in float32, in evaluation and inference mode.
"""

from __future__ import annotations

import gc
import itertools
import statistics
from typing import Any

import torch
import torch.nn.functional as F
from common import begin, finish, in_turns, median_ratio, parser
from networks import BACKBONES

from nnunet_dino.backbones.precision import backbone_dtype
from nnunet_dino.backbones.spec import PATCH_PX
from nnunet_dino.networks.options import DinoOptions, build_slice_encoder
from nnunet_dino.networks.slices import NUM_PREFIX_TOKENS, token_grid

EDGES = {"cpu": 2048, "cuda": 8192}
REPEATS = 4


def operations(encoder: Any, num_slices: int, num_tokens: int) -> float:
    """Returns how many additions and multiplications the matrix products of the transformer have."""
    vit = encoder.backbone.backbone.vit
    weights = sum(p.numel() for name, p in vit.blocks.named_parameters() if p.ndim == 2)
    patches = num_tokens - NUM_PREFIX_TOKENS
    attention = len(vit.blocks) * 4 * num_tokens**2 * encoder.backbone.embed_dim
    return num_slices * (2 * weights * num_tokens + attention + 2 * patches * vit.patch_embed.proj.weight.numel())


def measure(backbone: str, size: int, batch: int, arguments: Any, device: torch.device) -> dict[str, Any]:
    """Measures one backbone on ``batch`` square slices."""
    options = {"backbone": BACKBONES[backbone], "weights": "random", "token_stride_px": arguments.token_stride}
    encoder = build_slice_encoder(DinoOptions.from_plans(options), 1).to(device).train()
    theirs = build_slice_encoder(DinoOptions.from_plans(options), 1).backbone.backbone.vit.to(device).eval()
    slices = torch.randn(batch, 1, size, size, device=device)
    grid = token_grid((size, size), arguments.token_stride)
    num_tokens = grid[0] * grid[1] + NUM_PREFIX_TOKENS
    enlarged = F.interpolate(slices, [PATCH_PX * g for g in grid], mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    dtype = backbone_dtype(device)
    edge = EDGES[device.type]
    left, right = (torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(2))

    def plain_timm() -> None:
        with torch.inference_mode():
            theirs.forward_features(enlarged)

    functions = {
        "ours": lambda: encoder(slices),
        "timm": plain_timm,
        "products": lambda: [left @ right for _ in range(REPEATS)],
    }
    taken = in_turns(functions, device, arguments.rounds)
    work, reference = operations(encoder, batch, num_tokens), REPEATS * 2 * edge**3
    return {
        "backbone": backbone,
        "slices": f"{batch} × {size} px",
        "tokens each": num_tokens,
        "slices/s": batch / statistics.median(taken["ours"]),
        "TFLOP/s": work / statistics.median(taken["ours"]) / 1e12,
        "peak, TFLOP/s": reference / statistics.median(taken["products"]) / 1e12,
        "of the peak": work / reference * median_ratio(taken["products"], taken["ours"]),
        "× timm in float32": median_ratio(taken["timm"], taken["ours"]),
    }


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--backbones", nargs="+", choices=BACKBONES, default=["S", "B", "L"])
    options.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="pixels of a square slice (default 64 128)")
    options.add_argument("--batches", type=int, nargs="+", default=[16, 64], help="slices at once (default 16 64)")
    options.add_argument("--token-stride", type=int, default=8)
    arguments = options.parse_args()
    device = begin(arguments)
    rows = []
    for backbone, size, batch in itertools.product(arguments.backbones, arguments.sizes, arguments.batches):
        rows.append(measure(backbone, size, batch, arguments, device))
        print({key: round(value, 2) if isinstance(value, float) else value for key, value in rows[-1].items()}, flush=True)
        gc.collect()
    finish("encode", arguments, device, rows)


if __name__ == "__main__":
    main()
