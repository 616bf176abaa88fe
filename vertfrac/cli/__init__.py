"""The command line: ``vertfrac predict`` and ``vertfrac phantom`` for people, one subcommand per step of the workflow.

One module per group of commands; this one gathers them, so that a rule of the workflow names the code of its step as
``cli.COMMAND``. Heavy libraries are imported inside the commands that need them, so that ``vertfrac --help`` answers at
once.
"""

from vertfrac.cli.about import completion, config_check, config_schema, predict_schema, status, tables_command
from vertfrac.cli.archives import archive_list, archive_measure, archive_summary
from vertfrac.cli.cohorts import cohort_check, cohort_schema, folds, index, ingest, merge, resample, slices
from vertfrac.cli.group import main
from vertfrac.cli.measuring import curves, detect, export, straighten, transfer
from vertfrac.cli.people import keypoints_from_mask, phantom, predict, pretrain, report
from vertfrac.cli.scores import evaluate, experts, figures, summary
from vertfrac.cli.trainings import train_detector, train_localizer, trained_with

__all__ = [
    "archive_list",
    "archive_measure",
    "archive_summary",
    "cohort_check",
    "cohort_schema",
    "completion",
    "config_check",
    "config_schema",
    "curves",
    "detect",
    "evaluate",
    "experts",
    "export",
    "figures",
    "folds",
    "index",
    "ingest",
    "keypoints_from_mask",
    "main",
    "merge",
    "phantom",
    "predict",
    "predict_schema",
    "pretrain",
    "report",
    "resample",
    "slices",
    "status",
    "straighten",
    "summary",
    "tables_command",
    "train_detector",
    "train_localizer",
    "trained_with",
    "transfer",
]
