"use strict";

const settings = readData("settings"), heads = readData("heads");

function readData(id) {
  const element = document.getElementById(id);
  return element && JSON.parse(element.textContent);
}

// The geometry of vertfrac once more: curve.py, straighten.py, keypoints.py and genant.py. World points are RAS, mm;
// points of the slice are [row, column, offset in mm].

const LEAST_DESCENT = 1e-3;

function readCurve(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const numbers = new DataView(bytes.buffer);
  const points = [];
  for (let at = 0; at < bytes.length; at += 24) points.push([0, 8, 16].map((step) => numbers.getFloat64(at + step, true)));
  const lengths = [0];
  for (let i = 1; i < points.length; i++) lengths.push(lengths[i - 1] + distance(points[i], points[i - 1]));
  const axis = (k) => points.map((point) => point[k]);
  return {
    points,
    lengths,
    length: lengths[lengths.length - 1],
    x: naturalSpline(lengths, axis(0)),
    y: naturalSpline(lengths, axis(1)),
    z: monotoneSpline(lengths, axis(2)),
  };
}

/** Cubic spline whose second derivative is zero at both ends; returns (interval, s) -> [value, slope]. */
function naturalSpline(s, values) {
  const n = s.length, bend = new Array(n).fill(0), upper = new Array(n).fill(0);
  for (let i = 1; i < n - 1; i++) {
    const before = s[i] - s[i - 1], after = s[i + 1] - s[i];
    const right = 6 * ((values[i + 1] - values[i]) / after - (values[i] - values[i - 1]) / before);
    const pivot = 2 * (before + after) - before * upper[i - 1];
    upper[i] = after / pivot;
    bend[i] = (right - before * bend[i - 1]) / pivot;
  }
  for (let i = n - 2; i > 0; i--) bend[i] -= upper[i] * bend[i + 1];
  return (i, at) => {
    const h = s[i + 1] - s[i], a = (s[i + 1] - at) / h, b = (at - s[i]) / h;
    const value = a * values[i] + b * values[i + 1] + (((a ** 3 - a) * bend[i] + (b ** 3 - b) * bend[i + 1]) * h * h) / 6;
    const slope = (values[i + 1] - values[i]) / h + (((3 * b * b - 1) * bend[i + 1] - (3 * a * a - 1) * bend[i]) * h) / 6;
    return [value, slope];
  };
}

/** Piecewise cubic Hermite interpolation that keeps monotone data monotone (PCHIP, Fritsch and Butland 1984). */
function monotoneSpline(s, values) {
  const n = s.length;
  const step = [...Array(n - 1).keys()].map((i) => s[i + 1] - s[i]);
  const rise = step.map((h, i) => (values[i + 1] - values[i]) / h);
  const slopes = new Array(n).fill(rise[0]);
  for (let i = 1; i < n - 1; i++) {
    const left = 2 * step[i] + step[i - 1], right = step[i] + 2 * step[i - 1];
    slopes[i] = rise[i - 1] * rise[i] > 0 ? (left + right) / (left / rise[i - 1] + right / rise[i]) : 0;
  }
  if (n > 2) {
    slopes[0] = endSlope(step[0], step[1], rise[0], rise[1]);
    slopes[n - 1] = endSlope(step[n - 2], step[n - 3], rise[n - 2], rise[n - 3]);
  }
  return (i, at) => {
    const h = step[i], t = (at - s[i]) / h;
    const value = values[i] * (1 + 2 * t) * (1 - t) ** 2 + slopes[i] * h * t * (1 - t) ** 2
      + values[i + 1] * t * t * (3 - 2 * t) + slopes[i + 1] * h * t * t * (t - 1);
    const slope = 6 * t * (1 - t) * rise[i] + slopes[i] * (1 - t) * (1 - 3 * t) + slopes[i + 1] * t * (3 * t - 2);
    return [value, slope];
  };
}

function endSlope(near, next, rise, nextRise) {
  const slope = ((2 * near + next) * rise - near * nextRise) / (near + next);
  if (Math.sign(slope) !== Math.sign(rise)) return 0;
  return Math.sign(rise) !== Math.sign(nextRise) && Math.abs(slope) > 3 * Math.abs(rise) ? 3 * rise : slope;
}

/** Point, unit tangent, posterior and lateral axis of the curve at a length from its superior end. */
function frameAt(curve, s) {
  const inside = Math.min(Math.max(s, 0), curve.length);
  let low = 0, high = curve.lengths.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (curve.lengths[middle] <= inside) low = middle;
    else high = middle - 1;
  }
  const [[x, dx], [y, dy], [z, slope]] = [curve.x, curve.y, curve.z].map((spline) => spline(low, inside));
  const velocity = [dx, dy, Math.min(slope, -LEAST_DESCENT)];
  const point = [x, y, z].map((value, k) => value + velocity[k] * (s - inside));
  const tangent = unit(velocity);
  const posterior = unit([0, tangent[2], -tangent[1]]);
  return { point, tangent, posterior, lateral: cross(tangent, posterior) };
}

function centerColumn(slice) {
  return (slice.columns - 1) / 2;
}

function toWorld(slice, [row, column, offset]) {
  const { point, posterior, lateral } = frameAt(slice.path, slice.start_mm + row * slice.spacing_mm);
  const behind = (column - centerColumn(slice)) * slice.spacing_mm;
  return point.map((value, k) => value + posterior[k] * behind + lateral[k] * offset);
}

/** Where a world point lies in the slice: by bisection around the nearest millimetre of the curve. */
function toSlice(slice, world) {
  const first = slice.start_mm - 60, last = slice.start_mm + slice.rows * slice.spacing_mm + 60;
  let nearest = first, least = Infinity;
  for (let s = first; s <= last; s++) {
    const away = distance(frameAt(slice.path, s).point, world);
    if (away < least) [nearest, least] = [s, away];
  }
  let low = nearest - 5, high = nearest + 5;
  for (let i = 0; i < 40; i++) {
    const middle = (low + high) / 2, frame = frameAt(slice.path, middle);
    if (dot(minus(world, frame.point), frame.tangent) > 0) low = middle;
    else high = middle;
  }
  const s = (low + high) / 2, frame = frameAt(slice.path, s), offset = minus(world, frame.point);
  return [
    (s - slice.start_mm) / slice.spacing_mm,
    dot(offset, frame.posterior) / slice.spacing_mm + centerColumn(slice),
    dot(offset, frame.lateral),
  ];
}

function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

function minus(a, b) {
  return a.map((value, k) => value - b[k]);
}

function distance(a, b) {
  return Math.hypot(...minus(a, b));
}

function unit(vector) {
  const length = Math.hypot(...vector);
  return vector.map((value) => value / length);
}

function cross(a, b) {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}

/** Anterior, middle and posterior height, mm; points : six in the world. */
function heightsOf(points) {
  return [0, 2, 4].map((k) => distance(points[k], points[k + 1]));
}

function genantIndex(heights) {
  const largest = Math.max(...heights);
  return largest > 0 ? Math.min(...heights) / largest : NaN;
}

function gradeOf(index) {
  return Number.isNaN(index) ? -1 : settings.gradeLimits.filter((limit) => index <= limit).length;
}

/** G with two decimals, or with as many as it takes not to read as another grade. */
function indexText(index) {
  const texts = [2, 3, 4].map((digits) => index.toFixed(digits));
  return texts.find((text) => gradeOf(Number(text)) === gradeOf(index)) ?? texts[0];
}
