// Painting: the picture, each region's outline, point or stroke in its colour, and its number beside it.
const brush = canvas.getContext("2d");
const tinted = new WeakMap();
let drawing = null; // the shape that is being drawn
let waiting = false;

function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; paint(); });
}

function paint() {
  const frame = canvas.getBoundingClientRect();
  if (!frame.width) return;
  brush.setTransform(canvas.width / frame.width, 0, 0, canvas.height / frame.height, 0, 0);
  brush.clearRect(0, 0, frame.width, frame.height);
  find("zoom").textContent = store.picture ? `${Math.round(view.scale * 100)}%` : "100%";
  if (!store.picture) return;
  const {width, height} = store.picture;
  brush.imageSmoothingEnabled = view.scale < 3;
  brush.imageSmoothingQuality = "high";
  brush.drawImage(store.image, view.x, view.y, width * view.scale, height * view.scale);
  for (const region of store.regions) paintShape(region.shape, colourOf(region.number), region.number === store.selected);
  if (drawing) paintShape(drawing, colourOf(store.next), false);
  for (const region of store.regions) paintNumber(region);
  const chosen = selectedRegion();
  if (chosen) shownHandles(chosen.shape).forEach(({place}) => paintHandle(toCanvas(place), colourOf(chosen.number)));
}

function paintShape(shape, colour, chosen) {
  brush.strokeStyle = brush.fillStyle = colour;
  brush.lineWidth = setting.line;
  brush.lineJoin = brush.lineCap = "round";
  if (shape.mask) return paintMask(shape.mask, colour, chosen);
  brush.beginPath();
  if (shape.point) {
    const [x, y] = toCanvas(shape.point);
    brush.arc(x, y, Math.max(store.picture.radius * view.scale, 4), 0, 7);
    brush.fill();
    brush.lineWidth = 1.5;
    brush.strokeStyle = "#fff";
    brush.stroke();
    return;
  }
  if (shape.scribble) brush.lineWidth = Math.max(2 * store.picture.radius * view.scale, 2);
  for (const points of shape.box ? [cornersOf(shape.box)] : shape.scribble ? [shape.scribble] : outlinesOf(shape)) {
    points.map(toCanvas).forEach(([x, y], k) => (k ? brush.lineTo(x, y) : brush.moveTo(x, y)));
    if (!shape.scribble && !(shape === drawing && shape.polygon)) brush.closePath();
  }
  brush.stroke();
}

function cornersOf([x0, y0, x1, y1]) {
  return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
}

function paintMask(mask, colour, chosen) {
  const {width, height} = mask, [x, y] = toCanvas([0, 0]);
  brush.globalAlpha = chosen ? 0.65 : 0.5;
  brush.drawImage(tint(mask, colour), x, y, store.picture.width * view.scale, store.picture.height * view.scale);
  brush.globalAlpha = 1;
}

function tint(mask, colour) {
  const kept = tinted.get(mask);
  if (kept && kept.colour === colour) return kept.sheet;
  const {bits, width, height} = bitsOf(mask), sheet = document.createElement("canvas");
  Object.assign(sheet, {width, height});
  const pen = sheet.getContext("2d"), pixels = pen.createImageData(width, height);
  const [red, green, blue] = colour.match(/\d+/g).map(Number);
  bits.forEach((bit, k) => bit && pixels.data.set([red, green, blue, 255], 4 * k));
  pen.putImageData(pixels, 0, 0);
  tinted.set(mask, {colour, sheet});
  return sheet;
}

// Above the region's left end, or below it if there is no room above.
function paintNumber({number, shape}) {
  const [x0, y0, , y1] = boundsOf(shape, store.picture.radius), text = String(number);
  const [left, top] = toCanvas([x0, y0]), low = toCanvas([x0, y1])[1];
  brush.font = "600 15px system-ui, sans-serif";
  brush.textBaseline = "middle";
  const width = brush.measureText(text).width + 9, height = 20;
  const y = top >= height ? top - height : Math.min(low + 1, canvas.getBoundingClientRect().height - height);
  brush.fillStyle = colourOf(number);
  brush.fillRect(left - 1.5, y, width, height);
  brush.fillStyle = "#fff";
  brush.fillText(text, left + 3, y + height / 2 + 0.5);
}

// On a small box the corners alone, so that the object stays in sight.
function shownHandles(shape) {
  const all = handlesOf(shape).map((place, handle) => ({place, handle}));
  if (!shape.box) return all;
  const [x0, y0, x1, y1] = shape.box, small = Math.min(x1 - x0, y1 - y0) * view.scale < 48;
  return small ? all.filter(({handle}) => handle % 2 === 0) : all;
}

function paintHandle([x, y], colour) {
  brush.beginPath();
  brush.rect(x - 4, y - 4, 8, 8);
  brush.fillStyle = "#fff";
  brush.strokeStyle = colour;
  brush.lineWidth = 2;
  brush.fill();
  brush.stroke();
}
