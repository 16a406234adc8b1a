// Mouse, pen and fingers on the canvas: one draws, two fingers move the view. Boxes and edges that are drawn beyond the
// picture end at its edge; clicks and strokes beside it are on nothing.
const NEAR = 9; // CSS pixels
const LEAST_DRAG = 3;
const touches = new Map();
let gesture = null;

function near() { return NEAR / view.scale; }

function handleAt(event) {
  const region = selectedRegion(), frame = canvas.getBoundingClientRect();
  if (!region) return null;
  const found = shownHandles(region.shape).find(({place}) => {
    const [x, y] = toCanvas(place);
    return Math.hypot(x - event.clientX + frame.left, y - event.clientY + frame.top) <= NEAR;
  });
  return found ? {region, handle: found.handle} : null;
}

// The smallest region under the pointer: a large one does not hide what lies in it.
function regionAt(place) {
  const size = ({shape}) => { const [x0, y0, x1, y1] = boundsOf(shape, store.picture.radius); return (x1 - x0) * (y1 - y0); };
  const found = store.regions.filter((one) => isHit(one.shape, place, near(), store.picture.radius));
  return found.sort((a, b) => size(a) - size(b))[0];
}

function begin(event) {
  const place = toPicture(event), start = {from: place, x: event.clientX, y: event.clientY, moved: false};
  if (store.tool === "pan" || event.button === 1 || spaceHeld) return {...start, kind: "pan"};
  const held = handleAt(event);
  if (held) return {...start, kind: "resize", ...held, shape: held.region.shape};
  if (store.tool === "polygon") return {...start, kind: "corner"};
  if (store.tool === "select") {
    const region = regionAt(place);
    select(region ? region.number : null);
    return region ? {...start, kind: "move", region, shape: region.shape} : {...start, kind: "pan"};
  }
  if (store.tool === "scribble") {
    const first = placeOf(event);
    drawing = {scribble: first ? [first] : []};
  }
  return {...start, kind: store.tool};
}

function down(event) {
  if (!store.picture || event.button > 1) return;
  canvas.focus({preventScroll: true});
  canvas.setPointerCapture(event.pointerId);
  touches.set(event.pointerId, event);
  if (touches.size === 2) {
    if (drawing && !drawing.polygon) drawing = null;
    gesture = {kind: "pinch"};
  } else if (touches.size === 1) {
    gesture = begin(event);
  }
  event.preventDefault();
  draw();
}

function pinch(event) {
  const [other] = [...touches.entries()].filter(([id]) => id !== event.pointerId).map(([, one]) => one);
  const before = touches.get(event.pointerId), frame = canvas.getBoundingClientRect();
  if (!other || !before) return;
  const apart = (one) => Math.max(Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY), 1);
  const middle = [(event.clientX + other.clientX) / 2 - frame.left, (event.clientY + other.clientY) / 2 - frame.top];
  panBy((event.clientX - before.clientX) / 2, (event.clientY - before.clientY) / 2);
  zoomBy(apart(event) / apart(before), middle);
}

function move(event) {
  if (!store.picture) return;
  const place = toPicture(event);
  showPlace(place);
  if (!gesture) return hover(event, place);
  if (gesture.kind === "pinch") { pinch(event); touches.set(event.pointerId, event); return; }
  if (Math.hypot(event.clientX - gesture.x, event.clientY - gesture.y) >= LEAST_DRAG) gesture.moved = true;
  if (gesture.kind === "pan") { panBy(event.movementX, event.movementY); return; }
  if (gesture.kind === "resize" || gesture.kind === "move") return edit(place);
  if (["box", "segment"].includes(gesture.kind) && gesture.moved) drawing = {box: boxBetween(gesture.from, place, store.picture)};
  if (gesture.kind === "scribble") for (const one of event.getCoalescedEvents?.() ?? [event]) stroke(placeOf(one));
  draw();
}

function stroke(next) {
  const points = drawing.scribble, last = points[points.length - 1];
  if (next && (!last || Math.hypot(next[0] - last[0], next[1] - last[1]) * view.scale >= 2)) points.push(next);
}

function edit(place) {
  if (!gesture.moved) return;
  if (!gesture.remembered) { remember(); gesture.remembered = true; }
  const shape = gesture.kind === "resize" ? dragged(gesture.shape, gesture.handle, place, store.picture)
    : moved(gesture.shape, place[0] - gesture.from[0], place[1] - gesture.from[1], store.picture);
  if (!shape.box || hasArea(shape.box)) replaceShape(gesture.region.number, shape);
}

function hasArea([x0, y0, x1, y1]) { return x1 - x0 >= 0.02 && y1 - y0 >= 0.02; }

function hover(event, place) {
  if (drawing && drawing.polygon) { draw(); return; }
  const over = handleAt(event) ? "nwse-resize" : store.tool === "select" ? (regionAt(place) ? "move" : "grab") : null;
  canvas.style.cursor = store.tool === "pan" || spaceHeld ? "grab" : over || "crosshair";
}

function up(event) {
  touches.delete(event.pointerId);
  const ended = gesture, place = store.picture && toPicture(event);
  if (!ended || touches.size) return;
  gesture = null;
  const clicked = placeOf(event);
  if (["corner", "point", "segment"].includes(ended.kind) && !clicked && !drawing?.box) say("That is beside the picture");
  else if (ended.kind === "corner") addCorner(clicked);
  else if (ended.kind === "point") finish({point: clicked});
  else if (ended.kind === "scribble" && drawing) finish(drawing.scribble.length > 1 ? drawing : null);
  else if (ended.kind === "segment") endSegment(clicked);
  else if (ended.kind === "box") {
    if (drawing && hasArea(drawing.box)) finish(drawing);
    else { finish(null); const region = regionAt(place); if (region) select(region.number); }
  } else if (ended.remembered) {
    const {number, shape} = selectedRegion();
    say(`Region ${number}: ${describe(shape)}`);
  }
  draw();
}

// A box, or a click where none was drawn; a box that lies beside the picture has no area in it.
function endSegment(clicked) {
  const box = drawing?.box;
  drawing = null;
  if (box && hasArea(box)) segment({box});
  else if (!box) segment({point: clicked});
}

function cancelled(event) {
  touches.delete(event.pointerId);
  gesture = null;
  if (drawing && !drawing.polygon) drawing = null;
  draw();
}

function addCorner(place) {
  const points = drawing && drawing.polygon ? drawing.polygon : [];
  const close = ([x, y]) => Math.hypot(x - place[0], y - place[1]) <= near();
  if (points.length > 2 && close(points[0])) return closePolygon();
  if (points.length && close(points[points.length - 1])) return points.length > 2 ? closePolygon() : undefined;
  drawing = {polygon: [...points, place]};
  showButtons();
}

function dropCorner() {
  drawing = drawing.polygon.length > 1 ? {polygon: drawing.polygon.slice(0, -1)} : null;
  showButtons();
}

function closePolygon() {
  if (drawing && drawing.polygon && drawing.polygon.length > 2) finish(drawing);
}

function finish(shape) {
  drawing = null;
  if (shape) addRegion(shape);
  draw();
}

function wheel(event) {
  if (!store.picture || !(event.ctrlKey || event.metaKey || !view.fitted || event.shiftKey)) return;
  event.preventDefault();
  const frame = canvas.getBoundingClientRect();
  if (event.shiftKey) panBy(-(event.deltaX || event.deltaY), 0);
  else zoomBy(Math.exp(-event.deltaY * (event.ctrlKey ? 0.006 : 0.0015)), [event.clientX - frame.left, event.clientY - frame.top]);
}

function listenToPointer() {
  const on = (name, listener) => canvas.addEventListener(name, listener, {passive: false});
  on("pointerdown", down); on("pointermove", move); on("pointerup", up); on("pointercancel", cancelled);
  on("wheel", wheel); on("contextmenu", (event) => event.preventDefault());
  on("pointerleave", () => showPlace(null));
}
