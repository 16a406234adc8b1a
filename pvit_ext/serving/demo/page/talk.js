// The conversation: ask, read the answer as it comes, stop it, correct it, save it.
// A stopped answer breaks off anywhere: it is no history and no training record until a person has kept it.
function isAnswered(turn) {
  return Boolean(turn.answer.trim()) && (turn.state === "complete" || (turn.state === "stopped" && turn.corrected));
}

function isCutShort(turn) {
  return turn.state === "stopped" && !turn.corrected;
}

function asSent({question, regions, answer, corrected}) {
  return {question, ...sentRegions(regions), answer, corrected};
}

// With the numbers, by which the page names the files of masks.
function sentRegions(regions) {
  return {regions: regions.map((one) => one.shape), numbers: regions.map((one) => one.number)};
}

// What is sent: the answered turns, and the question in the field where it is asked.
function request(asking) {
  const turns = store.turns.filter(isAnswered).map(asSent);
  if (asking) {
    const mentions = store.regions.map(() => "<region>").join(" and ");
    const {question, used} = compiled(field.value.trim() || (mentions ? `What is ${mentions}?` : "What is in the picture?"));
    if (field.value.trim()) checkAllNamed(used);
    if (field.value.trim() || !turns.length) turns.push({question, ...sentRegions(used), answer: ""});
  }
  return {picture: store.picture.key, turns, ...hints()};
}

// Task and tags, of a model that reads them.
function hints() {
  const tags = find("tags").value.split(",").map((one) => one.trim()).filter(Boolean);
  return {task: find("task").value || null, tags: tags.length ? tags : null};
}

function showProblem(text) {
  find("problem").textContent = text || "";
}

async function ask(event) {
  event.preventDefault();
  if (store.busy || !store.picture || !field.value.trim()) return;
  showProblem("");
  let turn, sent;
  try {
    const {question, used} = compiled(field.value);
    sent = request(true);
    turn = {name: `${Date.now()}-${Math.random().toString(36).slice(2)}`, question, regions: used, answer: "", corrected: false, state: "running"};
  } catch (error) {
    showProblem(error.message);
    return;
  }
  store.turns.push(turn);
  Object.assign(store, {busy: true});
  field.value = "";
  typed();
  showTurns();
  try {
    await follow({...sent, name: turn.name}, turn);
  } catch (error) {
    Object.assign(turn, {state: "error", error: `The demo does not answer: ${error.message}`});
  }
  if (turn.state === "running") turn.state = "stopped";
  if (turn.state === "error" && !field.value) { field.value = withNumbers(turn); typed(); }
  store.busy = false;
  showTurns();
  changed();
}

function withNumbers(turn) {
  let k = 0;
  return turn.question.replace(/<region>/g, () => mention(turn.regions[k++].number));
}

// Gradio's own protocol: a request gets an id, and its events come as a stream. The question is one text: of objects
// Gradio takes some for files.
async function follow(given, turn) {
  const base = new URL("gradio_api/call/ask", document.baseURI);
  const asked = await fetch(base, {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({data: [JSON.stringify(given)]}),
  });
  if (!asked.ok) throw new Error(`${asked.status} ${asked.statusText}`);
  const {event_id: id} = await asked.json();
  const stream = (await fetch(`${base}/${id}`)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (turn.state === "running") { // the stream ends some time after the answer: the next question need not wait for it
    const {value, done} = await stream.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    events.forEach((text) => take(text, turn));
  }
  stream.cancel();
}

function take(text, turn) {
  const name = text.match(/^event: (.*)$/m)?.[1], data = text.match(/^data: (.*)$/m)?.[1];
  if (name === "error") throw new Error("it broke off; look at its terminal");
  if (!["generating", "complete"].includes(name) || !data) return;
  const [found] = JSON.parse(data);
  if (!found) return;
  Object.assign(turn, {answer: found.text, state: found.state, error: found.error});
  showAnswer(turn);
}

async function stop() {
  const turn = store.turns[store.turns.length - 1];
  if (turn) await server.stop({name: turn.name});
}

function showTurns() {
  find("turns").replaceChildren(...store.turns.map(turnElement));
  find("turns").lastElementChild?.scrollIntoView({block: "nearest"});
}

function turnElement(turn, place) {
  const item = document.createElement("article"), asked = document.createElement("p"), said = document.createElement("div");
  asked.className = "asked";
  asked.append(marked(turn.question, turn.regions.map((one) => one.number)));
  said.className = "answer";
  said.dataset.turn = turn.name;
  item.append(asked, said);
  if (turn.editing) said.replaceWith(editor(turn, place));
  else fill(said, turn, place);
  return item;
}

function fill(said, turn, place) {
  said.className = `answer ${turn.state}`;
  const text = Object.assign(document.createElement("span"), {textContent: turn.answer, className: "text"});
  const notes = {error: turn.error};
  if (isCutShort(turn)) notes.stopped = "stopped: neither history nor saved until corrected";
  const parts = [text];
  if (turn.state in notes) parts.push(Object.assign(document.createElement("em"), {textContent: notes[turn.state]}));
  if (turn.corrected) parts.push(Object.assign(document.createElement("em"), {textContent: "corrected"}));
  if (!["running", "error"].includes(turn.state)) {
    parts.push(button("Correct", `Correct answer ${place + 1}`, () => { turn.editing = true; showTurns(); focusEditor(); }, "small"));
  }
  said.replaceChildren(...parts);
}

function showAnswer(turn) {
  const said = find("turns").querySelector(`[data-turn="${turn.name}"]`);
  if (said) fill(said, turn, store.turns.indexOf(turn));
}

function editor(turn, place) {
  const box = document.createElement("div"), text = document.createElement("textarea");
  box.className = "answer editing";
  Object.assign(text, {value: turn.answer, rows: 2});
  text.setAttribute("aria-label", `Answer ${place + 1}`);
  const keep = () => {
    if (text.value.trim() && (text.value !== turn.answer || isCutShort(turn))) Object.assign(turn, {answer: text.value.trim(), corrected: true});
    leave();
  };
  const leave = () => { turn.editing = false; showTurns(); changed(); };
  text.addEventListener("keydown", (event) => {
    if (event.key === "Escape") leave();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); keep(); }
  });
  box.append(text, button("Keep", "Keep the corrected answer", keep, "small strong"), button("Cancel", "Leave the answer as it was", leave, "small"));
  return box;
}

function focusEditor() {
  find("turns").querySelector(".editing textarea")?.focus();
}

async function save() {
  const open = store.turns.find((turn) => turn.editing);
  if (open) return showProblem("Keep or cancel the correction first");
  const found = await server.save({request: request(false)});
  if (found.error) return showProblem(found.error);
  find("saved").textContent = `${found.before ? "There already" : "Saved"}: ${found.file}, line ${found.line}${withoutStopped()}`;
}

function withoutStopped() {
  const count = store.turns.filter(isCutShort).length;
  if (!count) return "";
  return count > 1 ? `, without ${count} stopped answers; correct them, and they are saved too`
    : ", without 1 stopped answer; correct it, and it is saved too";
}

function beginAnew() {
  store.turns = [];
  find("saved").textContent = "";
  showTurns();
  changed();
}
