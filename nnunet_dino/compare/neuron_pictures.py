"""Pictures of neurons: a section with the true ones and both segmentations, coloured alike."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnunet_dino.compare.case_names import place_of
from nnunet_dino.compare.records import PairedComparison
from nnunet_dino.em.score_folder import read_ids
from nnunet_dino.em.scores import score_neurons
from nnunet_dino.reports.plot import NIGHT, NIGHT_TEXT

GOLDEN = 0.618034
"""Steps of the hue by the golden ratio keep any number of colours apart."""
OPACITY = 0.55


def neuron_picture(pair: PairedComparison, case: str, files: tuple[Path, Path, Path, Path]) -> tuple[str, bytes]:
    """Draws a section of a case.

    Args:
        pair: The results.
        case: A volume or a block of one.
        files: Image, true ids, ids of the baseline, ids of the result; volumes ``d h w``.

    Returns:
        Caption and PNG.

    Raises:
        ValueError: The volumes differ in shape.
    """
    volumes = [read_ids(file) for file in files]
    for file, volume in zip(files, volumes, strict=True):
        if volume.shape != volumes[0].shape:
            raise ValueError(f"{file.name} has shape {volume.shape}, the image {volumes[0].shape}")
    image, truth, base, other = (volume[place_of(case)] for volume in volumes)
    sums = np.array([[_voi(t, b), _voi(t, o)] for t, b, o in zip(truth, base, other, strict=True)])
    index = int(np.abs(sums[:, 1] - sums[:, 0]).argmax())
    colours = {int(one): _colour(place) for place, one in enumerate(np.unique(truth[truth > 0]))}
    panels = [("Truth", truth[index], truth[index])]
    for result, ids, voi in zip((pair.baseline, pair.entry), (base, other), sums[index], strict=True):
        panels.append((f"{result.name}  VOI {voi:.3f}", ids[index], _likest(truth, ids)[index]))
    first = place_of(case)[0].start or 0
    caption = (
        f"Section {first + index + 1}, in which VOI sum differs most. A segment has the colour of the true neuron that it "
        "shares most voxels with, over all sections: one colour over several neurons is a merge, lines within a colour are a "
        "split. Grey where nothing is known."
    )
    return caption, _draw(image[index], panels, colours)


def _voi(truth: NDArray[np.integer], found: NDArray[np.integer]) -> float:
    return score_neurons(truth, found).voi_sum if truth.any() else 0.0


def _likest(truth: NDArray[np.integer], found: NDArray[np.integer]) -> NDArray[np.integer]:
    """Returns for every voxel the true id, 0 where there is none, that its segment shares most voxels with."""
    pairs, counts = np.unique(np.stack([found.ravel(), truth.ravel()]), axis=1, return_counts=True)
    order = np.argsort(np.where(pairs[1] > 0, counts, 0), kind="stable")
    ids, places = np.unique(found, return_inverse=True)
    best = np.zeros(len(ids), dtype=truth.dtype)
    best[np.searchsorted(ids, pairs[0][order])] = pairs[1][order]
    return best[places.reshape(found.shape)]


def _colour(place: int) -> NDArray[np.float64]:
    return hsv_to_rgb(((place * GOLDEN) % 1, 0.65 + 0.3 * (place % 2), 1 - 0.25 * (place % 3) / 2))


def _draw(
    grey: NDArray[np.number],
    panels: list[tuple[str, NDArray[np.integer], NDArray[np.integer]]],
    colours: dict[int, NDArray[np.float64]],
) -> bytes:
    low, high = np.percentile(grey, (1, 99))
    ground = np.clip((grey - low) / max(high - low, 1e-6), 0, 1)[..., None].repeat(3, axis=-1)
    height = 3.6 * min(max(grey.shape[0] / grey.shape[1], 0.4), 1.6)
    figure = Figure(figsize=(3.6 * len(panels), height + 0.4), layout="constrained", facecolor=NIGHT)
    for axes, (title, ids, likest) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        shown = ground.copy()
        for one in np.unique(likest[likest > 0]):
            inside = likest == one
            shown[inside] = (1 - OPACITY) * ground[inside] + OPACITY * colours[int(one)]
        shown[_edges(ids)] = 0
        axes.imshow(shown, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(title, color=NIGHT_TEXT, fontsize=9, loc="left", wrap=True)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, facecolor=NIGHT, metadata={"Software": None})
    return stream.getvalue()


def _edges(ids: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Returns the pixels ``h w`` whose id differs from that of the next one below or to the right."""
    is_edge = np.zeros(ids.shape, dtype=bool)
    is_edge[:-1] |= ids[:-1] != ids[1:]
    is_edge[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    return is_edge
