"""What the emoji splits give without any training: the nearest neighbours by hand-made features.

    python tests/benchmarks/bench_neighbours.py

`val_style`: the concept of the nearest training drawing. `val_concept`: the words of the 30 nearest drawings,
weighted by their rarity (tf-idf), against the held-out names. Features of a drawing at 32 pixels on white:
histograms of oriented gradients (Dalal and Triggs 2005, CVPR) and the mean colour of each cell.

Letters: N drawings, H W C picture, G cells along a side, O orientations, D features, V words, M names.
"""

import argparse
import collections
import math
import pathlib
import platform
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import numpy as np

from mmjax.data.geometry import Preprocess
from mmjax.data.sources.emoji import Emoji

SIZE, CELL, ORIENTATIONS = 32, 4, 9
COLOUR = 0.5  # weight of a cell's colour beside its gradients
NEAREST = 30


def features(picture_HWC):
    """Unit-norm float32 [D] of a uint8 picture with straight alpha."""
    square = Preprocess(size=SIZE).host(picture_HWC).astype(np.float32) / 255
    alpha = square[..., 3:] if square.shape[-1] == 4 else 1.0
    rgb_HWC = square[..., :3] * alpha + (1 - alpha)
    dy_HW, dx_HW = np.gradient(rgb_HWC.mean(axis=-1))
    size_HW, angle_HW = np.hypot(dx_HW, dy_HW), np.arctan2(dy_HW, dx_HW) % math.pi
    bin_HW = np.minimum((angle_HW / math.pi * ORIENTATIONS).astype(int), ORIENTATIONS - 1)
    votes_HWO = size_HW[..., None] * (bin_HW[..., None] == np.arange(ORIENTATIONS))
    cells_GGO, colours_GGC = by_cell(votes_HWO), by_cell(rgb_HWC) - 1
    blocks = [
        cells_GGO[i : i + 2, j : j + 2].ravel()
        for i in range(len(cells_GGO) - 1)
        for j in range(len(cells_GGO) - 1)
    ]
    gradients_D = np.concatenate([block / (np.linalg.norm(block) + 0.05) for block in blocks])
    return np.concatenate([unit(gradients_D), COLOUR * unit(colours_GGC.ravel())])


def by_cell(x_HWC):
    """Means over cells of CELL x CELL pixels."""
    side = SIZE // CELL
    return x_HWC.reshape(side, CELL, side, CELL, -1).mean(axis=(1, 3))


def unit(x_D):
    return x_D / max(np.linalg.norm(x_D), 1e-9)


def read(split):
    source = Emoji(split=split)
    source.prepare()
    examples = [source[i] for i in range(len(source))]
    ids_N = np.array([example["id"] for example in examples])
    return np.stack([features(e["image"]) for e in examples]).astype(np.float32), ids_N, examples


def style(gallery_ND, gallery_ids_N, queries_ND, query_ids_N):
    """Top-1 and top-5 share of drawings whose concept is among those of the nearest training drawings."""
    right = np.zeros(2)
    for row_N, wanted in zip(queries_ND @ gallery_ND.T, query_ids_N, strict=True):
        concepts = list(dict.fromkeys(gallery_ids_N[np.argsort(-row_N)[:200]]))
        right += wanted == concepts[0], wanted in concepts[:5]
    return right / len(queries_ND)


def words(text):
    return set(re.findall(r"\w+", text.lower()))


def concept(gallery_ND, gallery, queries_ND, query_ids_N, names):
    """R@1 and R@5 of the held-out names by the words of the nearest training drawings."""
    said = [set().union(*map(words, example["text"])) for example in gallery]
    spread = collections.Counter(word for found in said for word in found)
    rarity = {word: math.log(len(said) / count) for word, count in spread.items()}
    ids = list(names)
    right = np.zeros(2)
    for row_N, wanted in zip(queries_ND @ gallery_ND.T, query_ids_N, strict=True):
        weight = collections.Counter()
        for n in np.argsort(-row_N)[:NEAREST]:
            for word in said[n]:
                weight[word] += rarity[word] * max(row_N[n], 0)
        score_M = [
            sum(weight[word] * rarity.get(word, 0) for word in words(names[id_]))
            / math.sqrt(sum(rarity.get(word, math.log(len(said))) ** 2 for word in words(names[id_])))
            for id_ in ids
        ]
        order = [ids[m] for m in np.argsort(-np.array(score_M), kind="stable")]
        right += wanted == order[0], wanted in order[:5]
    return right / len(queries_ND)


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(f"Python {platform.python_version()}, NumPy {np.__version__}")
    gallery_ND, gallery_ids_N, gallery = read("train")
    queries_ND, query_ids_N, _ = read("val_style")
    top1, top5 = style(gallery_ND, gallery_ids_N, queries_ND, query_ids_N)
    print(f"val_style: {len(queries_ND)} drawings: top-1 {top1:.3f}, top-5 {top5:.3f}")
    queries_ND, query_ids_N, _ = read("val_concept")
    names = Emoji(split="val_concept").names
    r1, r5 = concept(gallery_ND, gallery, queries_ND, query_ids_N, names)
    print(f"val_concept: {len(queries_ND)} drawings: R@1 {r1:.3f}, R@5 {r5:.3f}")


if __name__ == "__main__":
    main()
