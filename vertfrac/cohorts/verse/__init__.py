"""VerSe'19 and VerSe'20: CT with vertebra masks, centroids and Genant grades, as released in public.

`files` finds the scans in either directory style, `grades` reads the expert grades, `centroids` checks a mask by its
centroids, `adapter` puts all together.
"""

from vertfrac.cohorts.verse.adapter import scans

__all__ = ["scans"]
