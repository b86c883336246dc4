"""The planner of affinity models: nnU-Net's plan of the volume, with the label manager that knows neurons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnunet_dino._errors import UserError
from nnunet_dino.nnunet.check_plans import check_planning
from nnunet_dino.nnunet.planning import estimating

if TYPE_CHECKING:
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner as _Planner
else:
    _Planner = object

CONFIGURATION = "3d_fullres"
THICK = 3  # sections this many times as thick as a pixel is wide are cut into fragments one by one


def label_manager_name(spacing: Any, has_long_range: bool) -> str:
    """Returns the label manager for volumes with this voxel size, sections along the first axis.

    Raises:
        UserError: Another axis than the first is the coarse one.
    """
    spacing = np.asarray(spacing, dtype=float)
    if spacing.max() > spacing.min() * THICK and spacing.argmax() != 0:
        raise UserError(
            f"sections: required along the first axis of the files, which is the coarsest then · got a spacing of "
            f"{spacing.tolist()} · turn the volumes; nnunet-dino em convert writes them so"
        )
    kind = "" if spacing[0] > spacing[1:].max() * THICK else "Volume"
    return f"Affinity{kind}{'LongRange' if has_long_range else ''}Labels"


class AffinityPlanning(_Planner):
    """Mixed into nnU-Net's planner: plans ``3d_fullres`` for affinities.

    Ids are resampled to the nearest, axes stay as they are in the files (an affinity is of an axis), and the plans name our
    label manager and preprocessor, so that nnU-Net's commands write neurons.
    """

    default_plans_name: ClassVar[str]
    has_long_range: ClassVar[bool] = False
    num_features: ClassVar[int]

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float | None = None,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str | None = None,
        overwrite_target_spacing: Any = None,
        suppress_transpose: bool = True,
    ) -> None:
        name = plans_name or self.default_plans_name
        check_planning(dataset_name_or_id, name)
        memory = {} if gpu_memory_target_in_gb is None else {"gpu_memory_target_in_gb": gpu_memory_target_in_gb}
        super().__init__(
            dataset_name_or_id,
            preprocessor_name="NeuronPreprocessor" if preprocessor_name == "DefaultPreprocessor" else preprocessor_name,
            plans_name=name,
            overwrite_target_spacing=overwrite_target_spacing,
            suppress_transpose=True,
            **memory,
        )
        self.UNet_base_num_features = self.num_features

    def determine_resampling(self, *arguments: Any, **options: Any) -> tuple[Any, Any, Any, Any]:
        data, data_options, ids, _ = super().determine_resampling(*arguments, **options)
        return data, data_options, ids, {"is_seg": False, "order": 0, "order_z": 0, "force_separate_z": None}

    def static_estimate_VRAM_usage(self, *arguments: Any) -> int:
        with estimating():
            return super().static_estimate_VRAM_usage(*arguments)

    def plan_experiment(self) -> dict[str, Any]:
        """Plans.

        Raises:
            UserError: The images are 2D.
        """
        shapes = np.asarray(self.dataset_fingerprint["shapes_after_crop"])
        if shapes.shape[1] != 3 or np.median(shapes[:, 0]) == 1:
            raise UserError(
                f"affinities: required volumes · got 2D images, such as one of {shapes[0].tolist()} · stack the sections"
            )
        return super().plan_experiment()

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Leaves ``3d_fullres`` alone and names the label manager before saving."""
        plans["configurations"] = {CONFIGURATION: plans["configurations"][CONFIGURATION]}
        plans["configurations"][CONFIGURATION].pop("next_stage", None)
        plans["label_manager"] = label_manager_name(plans["original_median_spacing_after_transp"], self.has_long_range)
        super().save_plans(plans)
