"""Post-processing of synthetic affinities: seconds of processor time and memory, by shape.

OMP_NUM_THREADS=1 python benchmarks/neurons.py 250 250 250 --spacing-ratio 1
OMP_NUM_THREADS=1 python benchmarks/neurons.py 25 1250 1250 --spacing-ratio 10

Cells are the Voronoi cells of random points, about 100 pixels wide; the affinities of their ids, widened in thick sections, get
noise. Affinities become neurons in a process of their own; memory is the most that it held, less what it held once it had read
the affinities.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from nnunet_dino.em import affinities_of, neurons_of, score_neurons, widen_borders
from nnunet_dino.em.agglomeration import agglomerate
from nnunet_dino.em.blocks import BLOCK
from nnunet_dino.em.fragments import fragments_of

WIDTH = 100  # of a cell, pixels


def cells(shape: tuple[int, int, int], spacing_ratio: float) -> np.ndarray:
    """Returns ids ``d h w``, from 1."""
    random = np.random.default_rng(0)
    volume = np.prod(shape) * spacing_ratio
    points = tuple(random.integers(0, size, max(int(volume / WIDTH**3), 2)) for size in shape)
    is_far = np.ones(shape, bool)
    is_far[points] = False
    nearest = distance_transform_edt(is_far, (spacing_ratio, 1, 1), return_distances=False, return_indices=True)
    ids = np.zeros(shape, np.int32)
    ids[points] = np.arange(1, len(points[0]) + 1)
    return ids[tuple(nearest)]


def held_gib() -> float:
    """Returns what this process holds now, GiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**30


def cut(file: Path, per_section: bool, block: tuple[int, int, int]) -> tuple[np.ndarray, float, float]:
    """Returns the neurons of saved affinities, seconds of processor time, and GiB beyond what reading them took."""
    affinities = np.load(file)
    before, start = held_gib(), time.process_time()
    neurons = neurons_of(affinities, per_section, block=block)
    return neurons, time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", nargs=3, type=int)
    parser.add_argument("--spacing-ratio", type=float, default=1, help="thickness of a section in pixels")
    parser.add_argument("--noise", type=float, default=0.15)
    parser.add_argument("--block", nargs=3, type=int, default=BLOCK)
    asked = parser.parse_args()
    per_section = asked.spacing_ratio > 3
    ids = cells(tuple(asked.shape), asked.spacing_ratio)
    target = torch.from_numpy(ids)
    made = affinities_of(widen_borders(target) if per_section else target).numpy()
    affinities = np.empty(made.shape, np.float32)
    random = np.random.default_rng(1)
    for channel, values in zip(affinities, made, strict=True):
        channel[:] = np.clip(values + random.normal(0, asked.noise, values.shape), 0, 1)
    del made, target
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "affinities.npy")
        np.save(file, affinities)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as own:
            neurons, whole_s, above_gib = own.submit(cut, file, per_section, tuple(asked.block)).result()
    part = affinities[:, : asked.block[0], : asked.block[1], : asked.block[2]].copy()
    start = time.process_time()
    fragments = fragments_of(part, per_section)
    fragments_s = time.process_time() - start
    agglomerate(part, fragments)
    agglomeration_s = time.process_time() - start - fragments_s
    start = time.process_time()
    scores = score_neurons(ids, neurons)
    found = {
        "shape": asked.shape,
        "block": asked.block,
        "noise": asked.noise,
        "scores": {name: round(value, 3) for name, value in scores.as_dict().items()},
        "neurons_s": round(whole_s, 1),
        "above_affinities_gib": round(above_gib, 2),
        "gib_per_gigavoxel": round(above_gib / (ids.size / 1e9), 1),
        "first_block_fragments_s": round(fragments_s, 1),
        "first_block_agglomeration_s": round(agglomeration_s, 1),
        "scores_s": round(time.process_time() - start, 1),
        "num_fragments_of_first_block": len(np.unique(fragments)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
