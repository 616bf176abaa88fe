"""From a scan to vertebrae: curve, straightened slice, detections, non-maximum suppression, heights."""
