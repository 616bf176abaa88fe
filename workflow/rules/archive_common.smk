# What the rules of archive.smk ask: which table lists the scans, and what decides the numbers.

from functools import cache

from vertfrac.cohorts.nifti import CASES_TABLE
from vertfrac.inference.archive import computed_by


def table_of_scans(wildcards):
    """The table that lists the scans. A folder without one is listed again only when that is asked for."""
    table = SCANS / CASES_TABLE if SCANS.is_dir() else SCANS
    return [str(table)] if table.is_file() else []


@cache
def decided_by():
    """The model and the code that the numbers come from; the same for all shards."""
    try:
        return computed_by(Path(ARCHIVE.model))
    except VertfracError as error:
        raise WorkflowError(str(error)) from None
