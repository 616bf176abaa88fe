// The three grey pictures: decoding them, the window, zoom and pan. A place in a view is [u, v], mm in its plane; scale
// is in screen pixels per mm, and (u0, v0) lies at the screen's upper left corner.

const VIEWS = ["straight", "sagittal", "coronal"];
const HANDLE_VIEW = "straight";
const views = Object.fromEntries(VIEWS.map((name) => [name, makeView(name)]));
const display = { level: 300, width: 1000 };

function makeView(name) {
  const figure = document.getElementById(name);
  const screen = figure.querySelector(".screen"), canvas = figure.querySelector("canvas"), svg = figure.querySelector("svg");
  return { name, figure, screen, canvas, svg, scaleBar: figure.querySelector(".scale"), picture: null, scale: 1, u0: 0, v0: 0 };
}

/** Decode a picture to its grey values and a canvas of its size, into which the window is painted. */
async function decodePicture(given) {
  const bytes = Uint8Array.from(atob(given.webp), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/webp" }));
  const painted = Object.assign(document.createElement("canvas"), { width: given.columns, height: given.rows });
  const context = painted.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = context.getImageData(0, 0, given.columns, given.rows);
  const grey = new Uint8Array(given.columns * given.rows);
  for (let i = 0; i < grey.length; i++) grey[i] = pixels.data[4 * i];
  return {
    painted, context, pixels, grey, left: given.left, top: given.top,
    width: given.columns * given.step_mm, height: given.rows * given.step_mm,
  };
}

function paintWindow(picture, greyHu) {
  const [low, high] = greyHu, first = display.level - display.width / 2, shades = new Uint8ClampedArray(256);
  for (let g = 0; g < 256; g++) shades[g] = ((low + (g / 255) * (high - low) - first) / display.width) * 255;
  const { data } = picture.pixels;
  for (let i = 0; i < picture.grey.length; i++) data[4 * i] = data[4 * i + 1] = data[4 * i + 2] = shades[picture.grey[i]];
  picture.context.putImageData(picture.pixels, 0, 0);
}

function fitView(view) {
  const { width, height, left, top } = view.picture, { clientWidth, clientHeight } = view.screen;
  view.scale = Math.min(clientWidth / width, clientHeight / height) || 1;
  centerAt(view, [left + width / 2, top + height / 2]);
}

function centerAt(view, [u, v]) {
  view.u0 = u - view.screen.clientWidth / 2 / view.scale;
  view.v0 = v - view.screen.clientHeight / 2 / view.scale;
}

/** Zoom by a factor, so that the place at a point of the screen stays there; by default the middle. */
function zoomView(view, factor, x = view.screen.clientWidth / 2, y = view.screen.clientHeight / 2) {
  const [u, v] = placeOf(view, [x, y]);
  view.scale = Math.min(Math.max(view.scale * factor, 0.2), 40);
  view.u0 = u - x / view.scale;
  view.v0 = v - y / view.scale;
}

function panView(view, dx, dy) {
  view.u0 -= dx / view.scale;
  view.v0 -= dy / view.scale;
}

function onScreen(view, [u, v]) {
  return [(u - view.u0) * view.scale, (v - view.v0) * view.scale];
}

function placeOf(view, [x, y]) {
  return [view.u0 + x / view.scale, view.v0 + y / view.scale];
}

/** Where a point {slice, world} lies in a view. */
function placeIn(view, point, slice) {
  if (view.name === "sagittal") return [-point.world[1], -point.world[2]];
  if (view.name === "coronal") return [-point.world[0], -point.world[2]];
  return [(point.slice[1] - centerColumn(slice)) * slice.spacing_mm, point.slice[0] * slice.spacing_mm];
}

/** Row and column of the slice at a place in the straightened view. */
function slicePlace([u, v], slice) {
  return [v / slice.spacing_mm, u / slice.spacing_mm + centerColumn(slice)];
}

function showVertebra(view, points, slice, closely) {
  const places = points.map((point) => placeIn(view, point, slice));
  const [u, v] = [0, 1].map((k) => (Math.min(...places.map((p) => p[k])) + Math.max(...places.map((p) => p[k]))) / 2);
  if (closely) {
    view.scale = Math.min(view.screen.clientWidth / 80, view.screen.clientHeight / 70);
    centerAt(view, [u, v]);
    return;
  }
  const [x, y] = onScreen(view, [u, v]), { clientWidth, clientHeight } = view.screen;
  if (x < 0 || y < 0 || x > clientWidth || y > clientHeight) centerAt(view, [u, v]);
}

function drawPicture(view) {
  const { canvas, screen, picture } = view, sharp = window.devicePixelRatio || 1;
  const width = Math.round(screen.clientWidth * sharp), height = Math.round(screen.clientHeight * sharp);
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  if (!picture) return;
  const [x, y] = onScreen(view, [picture.left, picture.top]);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(picture.painted, x * sharp, y * sharp, picture.width * view.scale * sharp, picture.height * view.scale * sharp);
  drawScaleBar(view);
}

function drawScaleBar(view) {
  const mm = [100, 50, 20, 10, 5, 2, 1].find((length) => length * view.scale <= view.screen.clientWidth / 3) ?? 1;
  view.scaleBar.style.width = `${mm * view.scale}px`;
  view.scaleBar.textContent = `${mm} mm`;
}
