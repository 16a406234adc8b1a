// Opening pictures, and the beginning of the page.
function loadImage(url) {
  return new Promise((done, fail) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => fail(new Error("the browser cannot show this picture"));
    image.src = url;
  });
}

async function show({picture, regions = [], question = "", tags = [], error}) {
  if (error) return showProblem(error);
  setPicture(picture, await loadImage(picture.url), regions);
  let k = 0;
  field.value = question.replace(/<region>/g, () => mention(++k));
  find("tags").value = tags.join(", ");
  drawing = gesture = null;
  view.fitted = true;
  find("saved").textContent = "";
  showProblem("");
  showTurns();
  typed();
  layOut();
  say(`${picture.name}, ${picture.width} by ${picture.height} pixels`);
}

// The file itself is sent, for this page alone; the server answers with upright pixels, which are what is drawn on.
async function send(file) {
  if (file.size > setting.most_bytes) throw new Error(`${file.name} has over ${setting.most_bytes / 2 ** 20} MiB, the most that the demo takes`);
  const reader = new FileReader();
  const url = await new Promise((done, fail) => {
    reader.onload = () => done(reader.result);
    reader.onerror = () => fail(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
  return {content: url.slice(url.indexOf(",") + 1), name: file.name || "pasted.png"};
}

async function attempt(work) {
  root.classList.add("loading");
  try {
    await work();
  } catch (error) {
    showProblem(error.message || String(error));
  } finally {
    root.classList.remove("loading");
  }
}

function openFile(file) {
  if (!file || store.busy) return;
  attempt(async () => show(await server.open_picture({session: setting.session, ...(await send(file))})));
}

function openMask(file) {
  if (!file) return;
  addRegionOf(async (key) => server.add_mask({key, ...(await send(file))}));
}

// A region that the server makes; one of a picture that is no longer shown is dropped.
function addRegionOf(make) {
  const {picture} = store;
  attempt(async () => {
    let found;
    try {
      found = await make(picture.key);
    } catch (error) {
      found = {error: error.message || String(error)};
    }
    if (store.picture !== picture) return;
    showProblem(found.error);
    if (found.region) addRegion(found.region);
  });
}

function segment(shape) {
  addRegionOf((key) => server.segment({key, shape}));
}

function showExamples() {
  const made = setting.examples.map(({url, question}, number) => {
    const press = button("", `Example ${number + 1}: ${question.replace(/<region>/g, "a region")}`, () => {
      if (!store.busy) attempt(async () => show(await server.open_example({session: setting.session, number})));
    });
    press.append(Object.assign(new Image(), {src: url, alt: ""}));
    return press;
  });
  find("examples").replaceChildren(...made);
}

function showHints() {
  const {tasks, by_question: chosen, tags} = setting.hints, first = new Option(chosen ? "by the question" : "as usual", "");
  find("task").replaceChildren(first, ...tasks.map((task) => new Option(task, task)));
  find("taskfield").hidden = !tasks.length;
  find("tagsfield").hidden = !tags;
  find("hints").hidden = !tasks.length && !tags;
}

function listenToFiles() {
  const take = (id, open) => find(id).addEventListener("change", ({target}) => { open(target.files[0]); target.value = ""; });
  take("file", openFile);
  take("maskfile", openMask);
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
    if (file) { event.preventDefault(); openFile(file); }
  });
  stage.addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("over"); });
  stage.addEventListener("dragleave", () => stage.classList.remove("over"));
  stage.addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    openFile(event.dataTransfer.files[0]);
  });
}

function listenToButtons() {
  const doing = {
    undo, redo, remove: removeSelected, fit, in: () => zoomBy(1.25), out: () => zoomBy(0.8),
    open: () => find("file").click(), mask: () => find("maskfile").click(),
  };
  for (const one of root.querySelectorAll("[data-do]")) one.addEventListener("click", () => doing[one.dataset.do]());
  for (const one of root.querySelectorAll("[data-tool]")) one.addEventListener("click", () => setTool(one.dataset.tool));
  for (const one of root.querySelectorAll("[data-copy]")) one.addEventListener("click", () => copy(one.dataset.copy));
  find("ask").addEventListener("submit", ask);
  find("stop").addEventListener("click", stop);
  find("save").addEventListener("click", () => attempt(save));
  find("anew").addEventListener("click", beginAnew);
  find("copies").addEventListener("toggle", showCopies);
  for (const id of ["task", "tags"]) find(id).addEventListener("input", showCopies);
}

// What this page opens goes when this connection ends. A page that the browser keeps for "back" is closed too.
function stay() {
  let line;
  const open = () => { line = new EventSource(new URL(`stay/${setting.session}`, document.baseURI)); };
  open();
  window.addEventListener("pagehide", () => line.close());
  window.addEventListener("pageshow", (event) => { if (event.persisted) open(); });
}

async function startPage() {
  [draw, showRegions, paintQuestion, showButtons, showCopies].forEach(onChange);
  listenToPointer(); listenToKeys(); listenToQuestion(); listenToFiles(); listenToButtons();
  new ResizeObserver(layOut).observe(stage.parentElement);
  window.addEventListener("resize", layOut);
  changed();
  setting = await server.start({});
  stay();
  find("model").textContent = setting.model;
  find("save").title = `Appends a line to ${setting.records}/records.jsonl`;
  toolButton("segment").hidden = !setting.segmenter;
  showExamples();
  showHints();
  layOut();
  root.dataset.ready = "yes";
}

attempt(startPage);
