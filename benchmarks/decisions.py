"""Trains variants of the flagship and the stock network for equal iterations and prints their validation Dice.

One variant per call, so that several can run side by side:

    python benchmarks/decisions.py --dataset 4 --variant stock --out runs/
    python benchmarks/decisions.py --dataset 4 --variant flagship --seed 1 --out runs/
    python benchmarks/decisions.py --table runs/

nnU-Net's folders must be set and the data set planned and preprocessed. Augmentation runs in the main process unless
``nnUNet_n_proc_DA`` says otherwise, so a seed repeats a run. Every run writes ``OUT/DATASET-VARIANT-SEED.json`` with
the options, the result, versions, processor and commit; ``--table`` prints all of them as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.nnunet.discovery.registry import resolve
from nnunet_dino.nnunet.schedules import EpochSchedule, polynomial
from nnunet_dino.nnunet.trainer import DINOv3Trainer

BASE = {"backbone": "dinov3_tiny", "weights": "random"}
VARIANTS: dict[str, dict[str, Any]] = {
    "stock": {},
    "stock-adamw-1e-3": {"optimizer": "adamw", "lr": 1e-3},
    "flagship": {},
    "projections-as-pytorch": {"gate_start": 1.0},
    "no-head": {"token_head": False},
    "stride-16": {"token_stride_px": 16},
    "taps-raw": {"taps_are_normalised": False},
    "adamw-3e-4": {"optimizer": "adamw", "lr": 3e-4},
    "adamw-1e-3": {"optimizer": "adamw", "lr": 1e-3},
    "small": {"backbone": "dinov3_vits16"},
    "small-stride-16": {"backbone": "dinov3_vits16", "token_stride_px": 16},
    "lora": {"adaptation": "lora"},
    "full": {"adaptation": "full"},
}


def make_trainer(
    variant: str, num_epochs: int, num_iterations: int, num_validation_cases: int | None = None, prior: bool = False
) -> type[DINOv3Trainer]:
    """Returns a trainer class for ``variant`` with a short training, validated on the first cases of the fold."""
    options = {**BASE, **VARIANTS[variant]}
    optimizer, lr = options.pop("optimizer", None), options.pop("lr", None)
    base = resolve("nnUNetTrainerPrior" if variant.startswith("stock") else "nnUNetTrainerDINOv3Tiny")

    class Variant(base):
        def __init__(self, plans, configuration, fold, dataset_json, device):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.num_epochs = num_epochs
            self.num_iterations_per_epoch = num_iterations
            self.num_val_iterations_per_epoch = 5

        def do_split(self):
            training, validation = super().do_split()
            return training, validation[:num_validation_cases]

        if optimizer == "adamw":

            def configure_optimizers(self):
                adamw = torch.optim.AdamW([p for p in self.network.parameters() if p.requires_grad], lr, weight_decay=3e-5)
                return adamw, EpochSchedule(adamw, polynomial, self.num_epochs)

    if base.network_class:
        Variant.dino = DinoOptions.from_plans(options)
    Variant.prior = prior
    Variant.__name__ = f"Decision_{variant.replace('-', '_')}"
    return Variant


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and validates one variant and returns its record."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    os.environ.setdefault("nnUNet_n_proc_DA", "0")
    random.seed(arguments.seed)
    np.random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    name = maybe_convert_to_dataset_name(arguments.dataset)
    folder = Path(str(nnUNet_preprocessed), name)
    plans = load_json(str(folder / f"{arguments.plans}.json"))
    plans["plans_name"] = f"{arguments.plans}_decisions{arguments.seed}"
    plans["continue_training"] = False
    configuration = plans["configurations"]["3d_fullres"]
    configuration["batch_size"] = arguments.batch_size
    if arguments.patch:
        configuration["patch_size"] = arguments.patch
    if arguments.narrow > 1:
        kwargs = configuration["architecture"]["arch_kwargs"]
        kwargs["features_per_stage"] = [features // arguments.narrow for features in kwargs["features_per_stage"]]
    trainer_class = make_trainer(
        arguments.variant, arguments.epochs, arguments.iterations, arguments.validation_cases, arguments.prior
    )
    dataset_json = load_json(str(folder / "dataset.json"))
    trainer = trainer_class(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))
    started = time.time()
    trainer.run_training()
    trained = time.time()
    trainer.perform_actual_validation()
    summary = load_json(str(Path(trainer.output_folder, "validation", "summary.json")))
    return {
        "dataset": name,
        "variant": arguments.variant,
        "seed": arguments.seed,
        "prior": arguments.prior,
        "options": VARIANTS[arguments.variant],
        "plans": arguments.plans,
        "augmentation_workers": int(os.environ["nnUNet_n_proc_DA"]),
        "epochs": arguments.epochs,
        "iterations": arguments.iterations,
        "batch_size": arguments.batch_size,
        "patch": configuration["patch_size"],
        "narrow": arguments.narrow,
        "dice": {label: metrics["Dice"] for label, metrics in summary["mean"].items()},
        "mean_dice": summary["foreground_mean"]["Dice"],
        "num_cases": len(summary["metric_per_case"]),
        "train_seconds": trained - started,
        "validate_seconds": time.time() - trained,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": commit,
    }


def table(folder: Path) -> str:
    """Returns all records in ``folder`` as a Markdown table."""
    rows = [
        "| data | variant | seed | epochs × iterations | Dice per label | mean Dice | training, s | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(folder.glob("*.json")):
        r = json.loads(path.read_text())
        labels = " · ".join(f"{value:.3f}" for value in r["dice"].values())
        rows.append(
            f"| {r['dataset']} | {r['variant']} | {r['seed']} | {r['epochs']} × {r['iterations']} | {labels} | "
            f"**{r['mean_dice']:.4f}** | {r['train_seconds']:.0f} | {r['commit']} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=int, default=4)
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--prior", action="store_true", help="start at the class frequencies")
    parser.add_argument("--plans", default="nnUNetPlans")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--patch", type=int, nargs=3, help="d h w; default as planned")
    parser.add_argument("--narrow", type=int, default=1, help="divide the planned features of every stage by this")
    parser.add_argument("--validation-cases", type=int, help="validate on so many cases of the fold; default all")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--table", type=Path, help="print the records in this folder")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.table))
        return
    if not arguments.variant:
        parser.error("required --variant or --table")
    record = run(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / f"{record['dataset']}-{record['variant']}-{record['seed']}.json"
    target.write_text(json.dumps(record, indent=2) + "\n")
    print(table(arguments.out))


if __name__ == "__main__":
    main()
