// The keyboard: everything that the mouse can do on the canvas.
const TOOL_KEYS = {v: "select", b: "box", p: "point", g: "polygon", s: "scribble", w: "segment", h: "pan"};
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
let spaceHeld = false;

function drawInTheMiddle() {
  if (drawing && drawing.polygon) return closePolygon();
  const {width, height} = canvas.getBoundingClientRect(), {picture} = store;
  const corner = clampPoint([-view.x / view.scale, -view.y / view.scale], picture);
  const other = clampPoint([(width - view.x) / view.scale, (height - view.y) / view.scale], picture);
  const part = (share) => [0, 1].map((k) => rounded(corner[k] + share * (other[k] - corner[k])));
  const [low, middle, high] = [part(0.375), part(0.5), part(0.625)];
  if (store.tool === "point") addRegion({point: middle});
  else if (store.tool === "segment") segment({point: middle});
  else if (store.tool === "polygon") addRegion({polygon: [[middle[0], low[1]], high, [low[0], high[1]]]});
  else if (store.tool === "scribble") addRegion({scribble: [[low[0], middle[1]], [high[0], middle[1]]]});
  else addRegion({box: [...low, ...high]});
}

function nudge([dx, dy], event) {
  const region = selectedRegion();
  if (!region) return;
  const far = event.shiftKey ? 10 : 1, {shape} = region;
  let next = shape;
  if (!event.altKey) next = moved(shape, dx * far, dy * far, store.picture);
  else if (shape.box) {
    const [x0, y0, x1, y1] = shape.box;
    const to = [Math.max(x1 + dx * far, x0 + 1), Math.max(y1 + dy * far, y0 + 1)];
    next = {box: [x0, y0, ...clampPoint(to, store.picture)]};
  }
  if (JSON.stringify(next) === JSON.stringify(shape)) return say(`Region ${region.number} goes no further`);
  remember(`arrows ${region.number}`, event.timeStamp);
  replaceShape(region.number, next);
  say(`Region ${region.number}: ${describe(next)}`);
}

function selectNext(by) {
  if (!store.regions.length) return;
  const at = store.regions.findIndex((one) => one.number === store.selected), count = store.regions.length;
  const {number, shape} = store.regions[(at + by + count) % count];
  select(number);
  say(`Region ${number}, ${kindOf(shape)}: ${describe(shape)}`);
}

// On the canvas, and on a region's entry in the list.
function regionKey(event) {
  if (event.ctrlKey || event.metaKey) return false;
  if (event.key in ARROWS) nudge(ARROWS[event.key], event);
  else if (event.key === "Delete" || event.key === "Backspace") {
    if (drawing && drawing.polygon) dropCorner();
    else removeSelected();
  } else return false;
  return true;
}

function canvasKey(event) {
  if (!store.picture || event.ctrlKey || event.metaKey) return;
  const key = event.key.toLowerCase();
  if (regionKey(event)) draw();
  else if (key === "enter") drawInTheMiddle();
  else if (key === "escape") { drawing = null; gesture = null; select(null); }
  else if (key === "pageup" || key === "pagedown") selectNext(key === "pageup" ? -1 : 1);
  else if (key === " ") spaceHeld = true;
  else if (key === "+" || key === "=") zoomBy(1.25);
  else if (key === "-") zoomBy(0.8);
  else if (key === "0") fit();
  else if (key === "r" && selectedRegion()) insertRegion(store.selected);
  else return;
  event.preventDefault();
  event.stopPropagation();
}

// Anywhere but in a field of text.
function pageKey(event) {
  if (event.target.closest("textarea, input, [contenteditable], select")) return;
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (key === "z") event.shiftKey ? redo() : undo();
    else if (key === "y") redo();
    else return;
  } else if (event.altKey) return;
  else if (key in TOOL_KEYS && !toolButton(TOOL_KEYS[key]).hidden) setTool(TOOL_KEYS[key]);
  else if (key === "o") find("file").click();
  else if (key === "m" && store.picture) find("maskfile").click();
  else return;
  event.preventDefault();
}

function toolButton(tool) {
  return root.querySelector(`[data-tool="${tool}"]`);
}

function listenToKeys() {
  canvas.addEventListener("keydown", canvasKey);
  root.addEventListener("keydown", pageKey);
  document.addEventListener("keyup", (event) => { if (event.key === " ") spaceHeld = false; });
}
