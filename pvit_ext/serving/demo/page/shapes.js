// Shapes in pixels of the upright picture, as they stand in a data file: {box}, {point}, {polygon}, {scribble}, {mask}.
"use strict";

const KINDS = ["box", "point", "polygon", "scribble", "mask"];

function kindOf(shape) {
  return KINDS.find((kind) => kind in shape);
}

// A hundredth of a pixel: what is shown is what is sent.
function rounded(value) {
  return Math.round(value * 100) / 100;
}

function clampTo(value, most) {
  return rounded(Math.min(Math.max(value, 0), most));
}

function clampPoint([x, y], picture) {
  return [clampTo(x, picture.width), clampTo(y, picture.height)];
}

function boxBetween([x0, y0], [x1, y1], picture) {
  const [a, b] = [clampPoint([x0, y0], picture), clampPoint([x1, y1], picture)];
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
}

function pointsOf(shape) {
  if (shape.box) return [[shape.box[0], shape.box[1]], [shape.box[2], shape.box[3]]];
  if (shape.point) return [shape.point];
  if (shape.scribble) return shape.scribble;
  if (shape.polygon) return typeof shape.polygon[0][0] === "number" ? shape.polygon : shape.polygon.flat();
  return [];
}

function withPoints(shape, points) {
  if (shape.box) return {box: [...points[0], ...points[1]]};
  if (shape.point) return {point: points[0]};
  return {[kindOf(shape)]: points};
}

function outlinesOf(shape) {
  return typeof shape.polygon[0][0] === "number" ? [shape.polygon] : shape.polygon;
}

// Bits of a mask, row by row, and the box around them; run lengths go down the columns.
const decoded = new WeakMap();
function bitsOf(mask) {
  if (decoded.has(mask)) return decoded.get(mask);
  const [height, width] = mask.size, bits = new Uint8Array(width * height);
  let at = 0, x0 = width, y0 = height, x1 = 0, y1 = 0;
  mask.counts.forEach((count, run) => {
    if (run % 2) {
      for (let k = at; k < at + count; k++) {
        const x = Math.floor(k / height), y = k % height;
        bits[y * width + x] = 1;
        x0 = Math.min(x0, x); y0 = Math.min(y0, y); x1 = Math.max(x1, x + 1); y1 = Math.max(y1, y + 1);
      }
    }
    at += count;
  });
  const found = {bits, width, height, bounds: [x0, y0, x1, y1], area: bits.reduce((sum, bit) => sum + bit, 0)};
  decoded.set(mask, found);
  return found;
}

function boundsOf(shape, radius) {
  if (shape.mask) return bitsOf(shape.mask).bounds;
  const points = pointsOf(shape), xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const more = shape.point || shape.scribble ? radius : 0;
  return [Math.min(...xs) - more, Math.min(...ys) - more, Math.max(...xs) + more, Math.max(...ys) + more];
}

function describe(shape) {
  const pair = ([x, y]) => `${x}, ${y}`;
  if (shape.box) return `${pair(shape.box)} – ${pair(shape.box.slice(2))}`;
  if (shape.point) return pair(shape.point);
  if (shape.mask) return `${bitsOf(shape.mask).area.toLocaleString("en")} pixels`;
  return pointsOf(shape).map(pair).join(" · ");
}

// Moved by (dx, dy), and not out of the picture; a mask stays, it belongs to its pixels.
function moved(shape, dx, dy, picture) {
  if (shape.mask || (shape.polygon && outlinesOf(shape).length > 1)) return shape;
  const points = pointsOf(shape), xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  dx = Math.min(Math.max(dx, -Math.min(...xs)), picture.width - Math.max(...xs));
  dy = Math.min(Math.max(dy, -Math.min(...ys)), picture.height - Math.max(...ys));
  return withPoints(shape, points.map(([x, y]) => clampPoint([x + dx, y + dy], picture)));
}

// Handles: corners and sides of a box, corners of a polygon, the point.
function handlesOf(shape) {
  if (shape.box) {
    const [x0, y0, x1, y1] = shape.box, x = (x0 + x1) / 2, y = (y0 + y1) / 2;
    return [[x0, y0], [x, y0], [x1, y0], [x1, y], [x1, y1], [x, y1], [x0, y1], [x0, y]];
  }
  if (shape.polygon && outlinesOf(shape).length === 1) return shape.polygon;
  return [];
}

function dragged(shape, handle, to, picture) {
  const [x, y] = clampPoint(to, picture);
  if (shape.polygon) return {polygon: shape.polygon.map((point, k) => (k === handle ? [x, y] : point))};
  const [x0, y0, x1, y1] = shape.box;
  const left = [0, 6, 7].includes(handle), right = [2, 3, 4].includes(handle);
  const upper = [0, 1, 2].includes(handle), lower = [4, 5, 6].includes(handle);
  return {box: boxBetween([left ? x : x0, upper ? y : y0], [right ? x : x1, lower ? y : y1], picture)};
}

function distanceToLine([x, y], [ax, ay], [bx, by]) {
  const length = (bx - ax) ** 2 + (by - ay) ** 2;
  const along = length ? Math.min(Math.max(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0), 1) : 0;
  return Math.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay));
}

function isInside([x, y], outlines) {
  let inside = false;
  for (const points of outlines) {
    points.forEach(([ax, ay], k) => {
      const [bx, by] = points[(k + 1) % points.length];
      if ((ay > y) !== (by > y) && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
    });
  }
  return inside;
}

// Whether a place is on the shape; near is in pixels of the picture.
function isHit(shape, place, near, radius) {
  const [x, y] = place;
  if (shape.box) {
    const [x0, y0, x1, y1] = shape.box;
    return x >= x0 - near && x <= x1 + near && y >= y0 - near && y <= y1 + near;
  }
  if (shape.mask) {
    const {bits, width, height} = bitsOf(shape.mask), [column, row] = [Math.floor(x), Math.floor(y)];
    return column >= 0 && row >= 0 && column < width && row < height && bits[row * width + column] === 1;
  }
  if (shape.polygon && isInside(place, outlinesOf(shape))) return true;
  const points = pointsOf(shape), least = near + (shape.polygon ? 0 : radius);
  if (points.length === 1) return Math.hypot(x - points[0][0], y - points[0][1]) <= least;
  return points.some((point, k) => k > 0 && distanceToLine(place, points[k - 1], point) <= least);
}
