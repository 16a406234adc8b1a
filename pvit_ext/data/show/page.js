// Filters: a record is shown if its task is a pressed one (or none is pressed), likewise its kinds, and its text holds
// every word of the search. What is chosen stands in the address, so that a view can be sent to somebody.
"use strict";
const cards = [...document.querySelectorAll("article")].map((card) => ({
  card, task: card.dataset.task, kinds: card.dataset.kinds.split(" "), text: card.textContent.toLowerCase(),
}));
const buttons = [...document.querySelectorAll("nav button")];
const search = document.getElementById("search");

function pressed(group) {
  return buttons.filter((one) => group in one.dataset && one.getAttribute("aria-pressed") === "true")
    .map((one) => one.dataset[group]);
}

function filter() {
  const tasks = pressed("task"), kinds = pressed("kind");
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const one of cards) {
    const fits = (!tasks.length || tasks.includes(one.task))
      && (!kinds.length || kinds.some((kind) => one.kinds.includes(kind)))
      && words.every((word) => one.text.includes(word));
    one.card.hidden = !fits;
    count += fits;
  }
  document.getElementById("shown").textContent = count.toLocaleString("en");
  document.getElementById("nothing").hidden = count > 0;
  const state = new URLSearchParams();
  tasks.forEach((task) => state.append("task", task));
  kinds.forEach((kind) => state.append("kind", kind));
  if (words.length) state.set("q", search.value);
  history.replaceState(null, "", "#" + state);
}

function restore() {
  const state = new URLSearchParams(location.hash.slice(1));
  for (const one of buttons) {
    const group = "task" in one.dataset ? "task" : "kind";
    one.setAttribute("aria-pressed", state.getAll(group).includes(one.dataset[group]));
  }
  search.value = state.get("q") || "";
  filter();
}

for (const one of buttons) {
  one.addEventListener("click", () => {
    one.setAttribute("aria-pressed", one.getAttribute("aria-pressed") !== "true");
    filter();
  });
}
search.addEventListener("input", filter);
window.addEventListener("hashchange", restore);
restore();
