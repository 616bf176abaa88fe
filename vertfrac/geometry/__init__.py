"""Pure geometry: grids, curves, straightened slices, keypoints, polygons (numpy, scipy, shapely only).

The one convention of vertfrac
------------------------------
* Every point that crosses a file or a stage is in **world coordinates, RAS+, in millimetres**, as in NIfTI:
  x grows towards the patient's right, y towards anterior, z towards superior.
* Voxel indices live inside one array's code. An integer index is the *centre* of its voxel; index and world are
  tied by the 4x4 affine of a :class:`~vertfrac.geometry.grid.Grid`. Half-pixel arithmetic lives in ``grid`` alone.
* A straightened slice is an array (row, column): rows follow the curve from superior to inferior, columns run from
  anterior to posterior, 1 mm apart unless said otherwise.
* Six keypoints of a vertebra are an array (..., 6, 3) in the order of ``keypoints.KEYPOINTS``.
"""
