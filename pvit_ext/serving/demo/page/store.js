// What is on the page: the picture, its regions, and the conversation. Regions can be undone.
const root = element.querySelector("#pvit"); // `element` and `server` are Gradio's
let setting = {colours: [[230, 25, 75]], line: 3, examples: [], hints: {tasks: [], tags: false}};

function find(id) { return root.querySelector("#" + id); }

function say(text) { find("said").textContent = text; }

const store = {
  picture: null, image: null, regions: [], next: 1, selected: null, turns: [], tool: "box", past: [], future: [], busy: false,
};
const MOST_UNDONE = 200;
const listeners = [];

function onChange(listener) {
  listeners.push(listener);
}

function changed() {
  listeners.forEach((listener) => listener());
}

// What a held key does is one step: changes of one name, none over a second after the one before and nothing between.
let lastStep = {name: "", time: 0};

function remember(name = "", time = 0) {
  const goesOn = name && name === lastStep.name && time - lastStep.time <= 1000;
  lastStep = {name, time};
  if (goesOn) return;
  store.past.push({regions: store.regions, next: store.next, selected: store.selected});
  if (store.past.length > MOST_UNDONE) store.past.shift();
  store.future = [];
}

function step(from, to) {
  lastStep = {name: "", time: 0};
  gesture = null; // a drag that goes on would change what was just taken back
  if (!from.length) return;
  to.push({regions: store.regions, next: store.next, selected: store.selected});
  Object.assign(store, from.pop());
  changed();
}

function undo() {
  if (drawing && drawing.polygon) { dropCorner(); draw(); } else step(store.past, store.future);
  say("Undone");
}
function redo() { step(store.future, store.past); say("Redone"); }

function addRegion(shape) {
  remember();
  const region = {number: store.next, shape};
  Object.assign(store, {regions: [...store.regions, region], next: store.next + 1, selected: region.number});
  changed();
  say(`Region ${region.number}, ${kindOf(shape)}: ${describe(shape)}`);
  return region;
}

function replaceShape(number, shape) {
  store.regions = store.regions.map((one) => (one.number === number ? {number, shape} : one));
  changed();
}

function removeSelected() {
  if (!selectedRegion()) return;
  remember();
  const at = store.regions.findIndex((one) => one.number === store.selected);
  say(`Region ${store.selected} deleted`);
  store.regions = store.regions.filter((one) => one.number !== store.selected);
  store.selected = store.regions.length ? store.regions[Math.min(at, store.regions.length - 1)].number : null;
  changed();
}

function selectedRegion() {
  return store.regions.find((one) => one.number === store.selected);
}

function select(number) {
  if (store.selected !== number) lastStep = {name: "", time: 0};
  store.selected = number;
  changed();
}

function setTool(tool) {
  store.tool = tool;
  changed();
}

function setPicture(picture, image, shapes) {
  const regions = shapes.map((shape, k) => ({number: k + 1, shape}));
  Object.assign(store, {
    picture, image, regions, next: regions.length + 1, selected: regions.length ? 1 : null, turns: [], past: [], future: [],
  });
  changed();
}

function colourOf(number) {
  const [red, green, blue] = setting.colours[(number - 1) % setting.colours.length];
  return `rgb(${red}, ${green}, ${blue})`;
}
