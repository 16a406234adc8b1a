// The question: a field of text in which `<region 2>` stands for region 2, and `<region>` for the next without its number.
const MENTION = /<region(?: (\d+))?>/gi;
const field = find("question");

function mention(number) { return `<region ${number}>`; }

function insertRegion(number) {
  const [start, end] = [field.selectionStart, field.selectionEnd], {value} = field;
  const before = start > 0 && !/\s$/.test(value.slice(0, start)) ? " " : "";
  const after = /^[\s.,;:?!]/.test(value.slice(end)) || end === value.length ? "" : " ";
  field.setRangeText(before + mention(number) + after, start, end, "end");
  typed();
  say(`Region ${number} put into the question`);
}

// Each mention with its region; a bare one is the next region that no number and no bare one before it names.
function mentioned(text) {
  const found = [...text.matchAll(MENTION)], numbered = new Set(found.map(([, number]) => Number(number)));
  const others = store.regions.filter((one) => !numbered.has(one.number));
  return found.map(({0: words, 1: number, index}) => ({
    words, number, index, region: number ? store.regions.find((one) => one.number === Number(number)) : others.shift(),
  }));
}

// The question as it is sent: `<region>` for each, and the regions in that order.
function compiled(text) {
  const used = mentioned(text).map(({number, region}) => {
    if (!region) throw new Error(number ? `There is no region ${number}: draw it, or take it out of the question`
      : "The question has more <region> than there are regions that it does not name by number");
    return region;
  });
  return {question: text.replace(MENTION, "<region>").trim(), used};
}

// A drawn region that no turn names would not reach the model, and nobody would notice.
function checkAllNamed(used) {
  const asked = store.turns.filter((turn) => turn.state !== "error").flatMap((turn) => turn.regions);
  const named = new Set([...asked, ...used].map((one) => one.number));
  const numbers = store.regions.map((one) => one.number).filter((number) => !named.has(number));
  if (!numbers.length) return;
  const many = numbers.length > 1, them = many ? "them" : "it";
  const subject = many ? `Regions ${numbers.join(", ")} are` : `Region ${numbers[0]} is`;
  const lack = used.length ? `the question does not name ${them}` : "the question names none";
  throw new Error(`${subject} drawn, but ${lack}: press ${many ? "their numbers" : "its number"}, or delete ${them}`);
}

// Text with `<region>` as numbers in their regions' colours.
function marked(text, numbers) {
  const parts = document.createDocumentFragment();
  text.split("<region>").forEach((part, k) => {
    if (k) parts.append(badge(numbers[k - 1]));
    parts.append(part);
  });
  return parts;
}

function badge(number, tag = "b") {
  const mark = document.createElement(tag);
  mark.className = "badge";
  mark.style.setProperty("--of", colourOf(number));
  mark.textContent = number;
  return mark;
}

// Behind the field the same text, with each mention on its region's colour.
function paintQuestion() {
  const behind = find("behind"), text = field.value;
  behind.replaceChildren();
  let at = 0;
  for (const {words, index, region} of mentioned(text)) {
    const mark = document.createElement("mark");
    mark.textContent = words;
    mark.className = region ? "" : "unknown";
    if (region) mark.style.setProperty("--of", colourOf(region.number));
    behind.append(text.slice(at, index), mark);
    at = index + words.length;
  }
  behind.append(text.slice(at) + "\n");
  behind.scrollTop = field.scrollTop;
}

function typed() {
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, 200)}px`;
  paintQuestion();
  changed();
}

function listenToQuestion() {
  field.addEventListener("input", typed);
  field.addEventListener("scroll", paintQuestion);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      find("ask").requestSubmit();
    }
  });
}
