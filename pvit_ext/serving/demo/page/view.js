// The view: how many CSS pixels a pixel of the picture takes, and where the picture's corner lies on the canvas.
const canvas = find("canvas"), stage = find("stage");
const view = {scale: 1, x: 0, y: 0, fitted: true};
const MOST_ZOOM = 64;

function toPicture(event) {
  const frame = canvas.getBoundingClientRect();
  return [(event.clientX - frame.left - view.x) / view.scale, (event.clientY - frame.top - view.y) / view.scale];
}

// A click up to NEAR beside the picture is meant for its edge; one farther out is on nothing.
function placeOf(event) {
  const [x, y] = toPicture(event), {width, height} = store.picture;
  const edge = clampPoint([x, y], store.picture), out = Math.hypot(x - edge[0], y - edge[1]);
  return out <= near() ? edge : null;
}

function toCanvas([x, y]) {
  return [x * view.scale + view.x, y * view.scale + view.y];
}

function fitScale() {
  const {width, height} = canvas.getBoundingClientRect();
  return Math.min(width / store.picture.width, height / store.picture.height);
}

function fit() {
  if (!store.picture) return;
  const {width, height} = canvas.getBoundingClientRect(), scale = fitScale();
  Object.assign(view, {
    scale, x: (width - store.picture.width * scale) / 2, y: (height - store.picture.height * scale) / 2, fitted: true,
  });
  draw();
}

// Around a place of the canvas, in CSS pixels, which keeps its pixel.
function zoomBy(factor, at) {
  if (!store.picture) return;
  const {width, height} = canvas.getBoundingClientRect(), [x, y] = at || [width / 2, height / 2];
  const scale = Math.min(Math.max(view.scale * factor, fitScale() / 2), MOST_ZOOM);
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  panBy(0, 0);
}

// Part of the picture always stays in sight.
function panBy(dx, dy) {
  const {width, height} = canvas.getBoundingClientRect(), seen = 40;
  const across = store.picture.width * view.scale, down = store.picture.height * view.scale;
  view.x = Math.min(Math.max(view.x + dx, seen - across), width - seen);
  view.y = Math.min(Math.max(view.y + dy, seen - down), height - seen);
  view.fitted = false;
  draw();
}

// The stage takes the picture's shape, up to the window's height; one device pixel is one pixel of the canvas.
function layOut() {
  const across = stage.clientWidth, most = Math.max(window.innerHeight * (across < 500 ? 0.5 : 0.68), 220);
  const wanted = store.picture ? (across * store.picture.height) / store.picture.width : across * 0.6;
  stage.style.height = `${Math.round(Math.min(Math.max(wanted, 180), most))}px`;
  const {width, height} = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(Math.round(width * ratio), 1);
  canvas.height = Math.max(Math.round(height * ratio), 1);
  if (view.fitted) fit(); else draw();
}
