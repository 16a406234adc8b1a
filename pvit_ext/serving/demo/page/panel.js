// The list of regions, the buttons, and the coordinates to copy.
function button(text, label, press, className = "") {
  const made = document.createElement("button");
  Object.assign(made, {type: "button", textContent: text, className});
  made.setAttribute("aria-label", label);
  made.title = label;
  made.addEventListener("click", press);
  return made;
}

function showRegions() {
  const list = find("regions"), held = document.activeElement?.closest("#regions button")?.dataset.key;
  list.replaceChildren(...store.regions.map(entry));
  find("chips").replaceChildren(...store.regions.map(({number}) => {
    const chip = badge(number, "button");
    chip.type = "button";
    chip.title = `Put region ${number} into the question`;
    chip.setAttribute("aria-label", chip.title);
    chip.addEventListener("click", () => { insertRegion(number); field.focus(); });
    return chip;
  }));
  find("none").hidden = store.regions.length > 0;
  if (held) list.querySelector(`[data-key="${held}"]`)?.focus();
}

function entry({number, shape}) {
  const item = document.createElement("li"), kind = kindOf(shape), chosen = number === store.selected;
  const press = button("", `Region ${number}, ${kind}, ${describe(shape)}. Press to put it into the question`, () => {
    select(number);
    insertRegion(number);
  }, "entry");
  const text = document.createElement("span");
  text.append(Object.assign(document.createElement("span"), {textContent: kind, className: "kind"}), describe(shape));
  press.append(badge(number), text);
  press.dataset.key = `entry-${number}`;
  press.addEventListener("keydown", (event) => {
    if (store.selected !== number) select(number);
    if (regionKey(event)) { event.preventDefault(); event.stopPropagation(); }
  });
  item.className = chosen ? "chosen" : "";
  item.append(press);
  if (shape.mask) item.append(button("PNG", `Save mask ${number} as PNG`, () => saveMask(number, shape), "small"));
  const pick = button("Select", `Select region ${number}`, () => { select(number); canvas.focus(); }, "small");
  pick.setAttribute("aria-pressed", String(chosen));
  item.append(pick, button("×", `Delete region ${number}`, () => { select(number); removeSelected(); }, "small"));
  if (chosen && (shape.box || shape.point)) item.append(numbersOf(number, shape));
  return item;
}

// The numbers of a box or a point, to type.
function numbersOf(number, shape) {
  const row = document.createElement("div"), names = shape.box ? ["left", "top", "right", "bottom"] : ["x", "y"];
  row.className = "numbers";
  names.forEach((name, k) => {
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, {type: "number", step: "any", value: (shape.box || shape.point)[k], name});
    input.addEventListener("change", () => setNumber(number, k, input));
    label.append(name, input);
    row.append(label);
  });
  return row;
}

function setNumber(number, place, input) {
  const {shape} = store.regions.find((one) => one.number === number), kind = kindOf(shape), {picture} = store;
  const values = [...shape[kind]], value = Number(input.value);
  values[place] = clampTo(value, place % 2 ? picture.height : picture.width);
  const good = input.value !== "" && Number.isFinite(value) && (kind === "point" || hasArea(values));
  if (!good) { say("A box is left, top, right, bottom"); changed(); return; }
  remember();
  replaceShape(number, {[kind]: values});
}

async function saveMask(number, shape) {
  const {url, error} = await server.mask_png({key: store.picture.key, shape});
  if (error) return showProblem(error);
  Object.assign(document.createElement("a"), {href: url, download: `mask-${number}.png`}).click();
}

function showButtons() {
  for (const one of root.querySelectorAll("[data-tool]")) {
    one.setAttribute("aria-pressed", String(one.dataset.tool === store.tool));
    one.disabled = !store.picture;
  }
  const able = {undo: store.past.length || (drawing && drawing.polygon), redo: store.future.length, remove: selectedRegion()};
  for (const name of ["undo", "redo", "remove", "in", "out", "fit", "mask"]) {
    root.querySelector(`[data-do="${name}"]`).disabled = !store.picture || (name in able && !able[name]);
  }
  canvas.style.cursor = store.tool === "pan" ? "grab" : store.tool === "select" ? "default" : "crosshair";
  find("empty").hidden = Boolean(store.picture);
  const answered = store.turns.some((turn) => isAnswered(turn));
  find("save").disabled = !answered || store.busy;
  find("anew").disabled = !store.turns.length || store.busy;
  find("send").hidden = store.busy;
  find("stop").hidden = !store.busy;
  find("send").disabled = !store.picture || !field.value.trim();
  find("size").textContent = store.picture ? `${store.picture.name} · ${store.picture.width} × ${store.picture.height} pixels` : "";
}

function showPlace(place) {
  const inside = place && place[0] >= 0 && place[1] >= 0 && place[0] <= store.picture.width && place[1] <= store.picture.height;
  find("where").textContent = inside ? `x ${place[0].toFixed(1)}  y ${place[1].toFixed(1)}` : "";
}

// Busy until what is shown is what was drawn; an answer that comes late, for an earlier drawing, is not shown.
let copying = 0;
function showCopies() {
  if (!find("copies").open) return;
  clearTimeout(copying);
  find("copies").setAttribute("aria-busy", "true");
  copying = setTimeout(() => fetchCopies(copying), 150);
}

async function fetchCopies(asked) {
  const show = (texts) => {
    if (asked !== copying) return;
    Object.entries(texts).forEach(([id, text]) => { find(id).textContent = text || ""; });
    find("copies").setAttribute("aria-busy", "false");
  };
  if (!store.picture) return show({command: "Open a picture first.", note: "", record: ""});
  try {
    const {error, command, note, record} = await server.copies({request: request(true)});
    show({command: error || command, note, record});
  } catch (error) {
    show({command: error.message, note: "", record: ""});
  }
}

async function copy(name) {
  const text = find(name).textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    getSelection().selectAllChildren(find(name)); // without https there is no clipboard but the user's own keys
    document.execCommand("copy");
  }
  say("Copied");
  const pressed = root.querySelector(`[data-copy="${name}"]`);
  pressed.textContent = "Copied";
  setTimeout(() => { pressed.textContent = "Copy"; }, 1500);
}
