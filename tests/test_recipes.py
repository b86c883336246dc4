"""The recipes of the page on the benchmark, on stand-ins in the real layout."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import recipes


def test_every_recipe_of_the_page_has_a_stand_in() -> None:
    found = re.findall(r"^# recipe: (\S+)$", recipes.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(found) == set(recipes.RECIPES.values()) and len(found) == len(set(found))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "report", "counts"),
    [
        ("nih14", "nih14_linear", {"test": 24, "train": 50, "val": 6}),
        ("camelyon17", "camelyon16_mil", {"test": 8, "train": 14, "val": 2}),
        ("rsna", "rsna_linear", {"test": 8, "train": 28, "val": 4}),
        ("bcnb", "bcnb_HER2", {"test": 20}),
        ("ct-rate", "ct-rate_knn", {"test": 12, "train": 22, "val": 2}),
    ],
)
def test_a_recipe_runs_from_a_copy_of_the_page(
    name: str, report: str, counts: dict[str, int], tmp_path: Path, scripts: Path
) -> None:
    copy = tmp_path / "page.md"
    copy.write_text(recipes.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    out = recipes.run(name, tmp_path, copy.read_text(encoding="utf-8"), scripts)
    table = pd.read_csv(out / report / "predictions.csv")
    assert table["split"].value_counts().to_dict() == counts
    assert (out / report / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hecktor", "btcv"])
def test_a_recipe_that_converts_data_and_trains_runs_to_its_report(name: str, tmp_path: Path, scripts: Path) -> None:
    out = recipes.run(name, tmp_path, scripts=scripts)
    assert (out / name / "report.html").is_file()
    assert len(pd.read_csv(out / name / "cases.csv")["case"].unique()) == 2
