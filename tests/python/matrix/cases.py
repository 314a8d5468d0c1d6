"""The option space of each layer, sampled so that every pair of option values occurs."""

import itertools
import random
from collections.abc import Iterator
from typing import Any

Case = dict[str, Any]

# Values that stand several times are drawn more often.
CUTS = {
    "ranks": [1, 2, 3, 4, 5, 6, 7, 8],
    "rows": 4 * [1, 2, 3, 5, 8, 13, 19, 37, 64] + [181, 721],
}
CALLS = {
    "dtype": ["float64", "float64", "float32", "bfloat16", "float16"],
    "layout": ["contiguous", "channels_last", "strided"],
    "call": ["plain", "eval", "no_grad", "twice", "autocast", "unbatched"],
}

AXES: dict[str, dict[str, list]] = {
    "conv": {
        "dims": [1, 2, 3],
        "kernel": [1, 2, 3, 4, 5, 7, 15, 32],
        "stride": [1, 2, 3, 4],
        "dilation": [1, 2, 3],
        "padding": [0, 1, 2, 3, 5, 15, "same", "valid"],
        "padding_mode": ["zeros", "zeros", "reflect", "replicate", "circular"],
        "groups": [1, 2, "depthwise"],
        "bias": [True, False],
        **CUTS,
        **CALLS,
    },
    "conv_transpose": {
        "dims": [1, 2, 3],
        "kernel": [1, 2, 3, 4, 5, 16],
        "stride": [1, 2, 3, 4],
        "dilation": [1, 2, 3],
        "padding": [0, 1, 2, 3, 7],
        "output_padding": [0, 1, 2, "output_size"],
        "groups": [1, 2, "depthwise"],
        "bias": [True, False],
        **CUTS,
        **CALLS,
    },
    "group_norm": {
        "dims": [1, 2, 3],
        "groups": [1, 2, 4, 8],
        "affine": [True, False],
        **CUTS,
        **CALLS,
    },
    "periodic_conv": {
        "kernel": [1, 2, 3, 4, 5, 9],
        "padding": [0, 1, 2, 3],
        "stride": [1, 2, 3],
        "bias": [True, False],
        **CUTS,
        **CALLS,
    },
    "interpolate": {
        "mode": [
            ("nearest", 1),
            ("nearest", 2),
            ("nearest", 3),
            ("nearest-exact", 1),
            ("nearest-exact", 2),
            ("nearest-exact", 3),
            ("area", 1),
            ("area", 2),
            ("area", 3),
            ("linear", 1),
            ("bilinear", 2),
            ("bicubic", 2),
            ("trilinear", 3),
        ],
        "target": [3, 7, 16, 41, 0.5, 0.7, 1.1, 1.3, 2.0, 2.6, 3.0],
        # ATen chooses between kernels by the sizes of all dimensions.
        "across": ["few", "few", "many"],
        "align_corners": [None, False, True],
        "recompute": [None, False, True],
        "antialias": [False, True],
        **CUTS,
        **CALLS,
    },
}

COUNTS = {"conv": 5000, "conv_transpose": 2500, "group_norm": 800, "periodic_conv": 1200, "interpolate": 2500}

# The patch embeddings of weather models, on every number of ranks.
LARGE_KERNELS: list[Case] = [
    {
        "dims": 2,
        "kernel": kernel,
        "stride": stride,
        "dilation": 1,
        "padding": padding,
        "padding_mode": "zeros",
        "groups": 1,
        "bias": True,
        "ranks": ranks,
        "rows": rows,
        "dtype": dtype,
        "layout": "contiguous",
        "call": "plain",
    }
    for kernel, stride, padding in [(32, 2, 15), (32, 1, 15), (32, 4, 14), (16, 2, 7), (8, 2, 3), (4, 2, 1)]
    for rows in (37, 64, 181)
    for ranks in range(1, 9)
    for dtype in ("float64", "float32")
]


def pairs_of(layer: str) -> set[tuple]:
    """Every pair of values of two options."""
    axes = AXES[layer]
    return {
        (a, str(x), b, str(y)) for a, b in itertools.combinations(sorted(axes), 2) for x in axes[a] for y in axes[b]
    }


def pairs_in(case: Case) -> Iterator[tuple]:
    for a, b in itertools.combinations(sorted(case), 2):
        yield (a, str(case[a]), b, str(case[b]))


def cases(layer: str) -> list[Case]:
    """The layer's cases, the same at every run: chosen at random, the one of a few with the most pairs not seen yet."""
    rng = random.Random(f"graticule {layer}")
    axes = {name: AXES[layer][name] for name in sorted(AXES[layer])}
    missing = pairs_of(layer)
    result = []
    while len(result) < COUNTS[layer]:
        tries = [{name: rng.choice(values) for name, values in axes.items()} for _ in range(8 if missing else 1)]
        best = max(tries, key=lambda case: sum(pair in missing for pair in pairs_in(case))) if missing else tries[0]
        missing.difference_update(pairs_in(best))
        result.append(best)
    return result + (LARGE_KERNELS if layer == "conv" else [])
