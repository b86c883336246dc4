"""Many trainings as one study: data sets, trainers, folds and numbers of cases, run by Snakemake, on one page."""

from pathlib import Path

from nnunet_dino.study.jobs import Jobs, jobs_of
from nnunet_dino.study.options import STUDY_FILE, Study, read_study

SNAKEFILE = Path(__file__).parent / "Snakefile"

__all__ = ["SNAKEFILE", "STUDY_FILE", "Jobs", "Study", "jobs_of", "read_study"]
