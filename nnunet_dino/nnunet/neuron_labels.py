"""What nnU-Net asks of labels, answered for data sets whose labels are the ids of neurons."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from numpy.typing import NDArray

from nnunet_dino._errors import UserError
from nnunet_dino.em import LONG_RANGE, NEAREST, THRESHOLD, neurons_of
from nnunet_dino.em.affinities import MAX_ID, Offset
from nnunet_dino.em.agglomeration import check_threshold

MAX_WRITTEN_ID = np.iinfo(np.uint16).max  # nnU-Net writes predictions as uint16
THRESHOLD_VARIABLE = "nnUNet_dino_em_threshold"


class NeuronIds(Sequence):
    """Stands for the labels of foreground: so many that nnU-Net writes 16 bits; whoever looks at each, for Dice, is refused."""

    def __len__(self) -> int:
        return MAX_WRITTEN_ID

    def __getitem__(self, index: Any) -> Any:
        raise UserError(
            "Dice: required labels that mean the same in every image · got the ids of neurons, which do not · judge affinity "
            "models with nnunet-dino em score (VOI and ARAND)"
        )

    def __iter__(self) -> Iterator[Any]:
        return iter(self[0])


class AffinityLabels(LabelManager):
    """Label manager of affinity models: one head per offset, and a segmentation into neurons. Named by the plans.

    Attributes:
        offsets: Of the heads; the first three are the nearest neighbours.
        per_section: Cut fragments in every section, for volumes whose sections are thick.
    """

    offsets: ClassVar[tuple[Offset, ...]] = NEAREST
    per_section: ClassVar[bool] = True

    def __init__(self, label_dict: dict, regions_class_order: list[int] | None, force_use_labels: bool = False) -> None:
        super().__init__(label_dict, None, force_use_labels, inference_nonlin=torch.sigmoid)

    @property
    def num_segmentation_heads(self) -> int:
        return len(self.offsets)

    @property
    def foreground_labels(self) -> NeuronIds:  # type: ignore[override]
        return NeuronIds()

    def convert_logits_to_segmentation(self, predicted_logits: Any) -> NDArray[np.uint16]:
        """Returns the neurons of affinity logits ``c d h w``; see :meth:`convert_probabilities_to_segmentation`."""
        return self.convert_probabilities_to_segmentation(self.apply_inference_nonlin(predicted_logits[:3]))

    def convert_probabilities_to_segmentation(self, predicted_probabilities: Any) -> NDArray[np.uint16]:
        """Returns the neurons ``d h w`` of affinities ``c d h w``, ids from 1.

        Raises:
            UserError: There are more than 16 bits can count, or a package of the extra ``em`` is missing.
        """
        neurons = neurons_of(np.asarray(predicted_probabilities[:3]), self.per_section, threshold_of_environment())
        if (highest := int(neurons.max())) > MAX_WRITTEN_ID:
            raise UserError(
                f"neurons: required at most {MAX_WRITTEN_ID} in one image, as nnU-Net writes 16 bits · got {highest} · predict "
                f"smaller volumes, or join more with {THRESHOLD_VARIABLE} above {threshold_of_environment():g}"
            )
        return neurons.astype(np.uint16)

    def revert_cropping_on_probabilities(self, predicted_probabilities: Any, bbox: Any, original_shape: Any) -> torch.Tensor:
        """Puts affinities back into the uncropped image; outside they are 0."""
        whole = torch.zeros((len(predicted_probabilities), *original_shape), dtype=torch.float32)
        inside = (slice(None), *(slice(low, high) for low, high in bbox))
        whole[inside] = torch.as_tensor(predicted_probabilities).float()
        return whole


def threshold_of_environment() -> float:
    """Returns the threshold of agglomeration that the environment asks for; the published one if it asks for none."""
    text = os.environ.get(THRESHOLD_VARIABLE, "").strip()
    try:
        threshold = float(text) if text else THRESHOLD
    except ValueError:
        raise UserError(f"{THRESHOLD_VARIABLE}: required a number from 0 to 1 · got {text!r} · correct or unset it") from None
    check_threshold(threshold)
    return threshold


class NeuronPreprocessor(DefaultPreprocessor):
    """nnU-Net's preprocessing, of ids; named by the plans."""

    def run_case_npy(self, data: Any, seg: Any, properties: Any, *arguments: Any) -> Any:
        """Checks the ids of a training case, then does as nnU-Net."""
        if seg is not None:
            check_ids(seg)
        return super().run_case_npy(data, seg, properties, *arguments)

    @staticmethod
    def _sample_foreground_locations(seg: Any, classes_or_regions: Any, *arguments: Any, **options: Any) -> dict:
        """No places are oversampled: an id is no class."""
        return {1: []}


def check_ids(ids: NDArray[Any]) -> None:
    """Raises :class:`UserError` unless a label volume holds ids of neurons that nnU-Net can store."""
    highest, lowest = int(ids.max()), int(ids.min())
    if highest > MAX_ID or lowest < -1:
        raise UserError(
            f"labels: required ids from 0 to {MAX_ID}, which nnU-Net can store · got {lowest} to {highest} · "
            "nnunet-dino em convert gives them new numbers"
        )
    if highest <= 1:
        raise UserError(
            f"labels: required one id for every neuron · got {'no id but 1' if highest == 1 else 'only 0'}, labels without "
            "instances · give instance labels, such as connected components; nnunet-dino em convert --components makes them"
        )


class AffinityVolumeLabels(AffinityLabels):
    """For isotropic volumes, in which fragments are cut in 3D."""

    per_section = False


class AffinityLongRangeLabels(AffinityLabels):
    """With affinities over several voxels as a further task of the network; neurons are made of the nearest alone."""

    offsets = LONG_RANGE


class AffinityVolumeLongRangeLabels(AffinityVolumeLabels):
    """Likewise, for isotropic volumes."""

    offsets = LONG_RANGE
