// What is wrong with the page as it is laid out, as sentences. Run by tests/browser.py; arguments[0] is its width.
const wrong = [];
const root = document.documentElement;
const name = (element) => `<${element.localName}> ${JSON.stringify(element.textContent.trim().slice(0, 40))}`;
const isSeen = (element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest(".unseen, .skip");

if (innerWidth !== arguments[0]) { wrong.push(`it is laid out for ${innerWidth} px`); }
if (root.scrollWidth > root.clientWidth) {
  const wide = [...document.querySelectorAll("body *")].filter(
    (element) => isSeen(element) && element.getBoundingClientRect().right > root.clientWidth + 1 && !element.closest(".wide"),
  );
  wrong.push(`it scrolls sideways, to ${root.scrollWidth} px: ${wide.slice(0, 3).map(name).join(", ")}`);
}

// Text stands out from its ground: 4.5 to 1, as WCAG reckons it.
function light(colour) {
  const [r, g, b] = colour.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
function ground(element) {
  for (let each = element; each; each = each.parentElement) {
    const found = parts(getComputedStyle(each).backgroundColor);
    if (found[3] !== 0) { return found.slice(0, 3); }
  }
  return [255, 255, 255];
}
for (const element of document.querySelectorAll("body *")) {
  const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  if (hasText && !element.closest("svg, template") && isSeen(element)) {
    const [a, b] = [light(parts(getComputedStyle(element).color).slice(0, 3)), light(ground(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) { wrong.push(`${name(element)} stands at ${contrast.toFixed(2)} to 1 on its ground`); }
  }
}

// Short words in tables are not broken: a column that is too narrow for a time is no column.
for (const cell of document.querySelectorAll("th, td")) {
  const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text && isSeen(cell); text = texts.nextNode()) {
    for (const word of text.data.matchAll(/(?<!\S)[\w.:"']{2,12}(?!\S)/g)) {
      const range = document.createRange();
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((box) => box.top)).size > 1) { wrong.push(`${word[0]} is broken in ${name(cell)}`); }
    }
  }
}

// It can be found one's way in without seeing it.
if (document.querySelectorAll("h1").length !== 1) { wrong.push("it has not one h1"); }
if (document.querySelectorAll("main").length !== 1) { wrong.push("it has not one main part"); }
if (!root.lang || !document.title.trim()) { wrong.push("it has no language or no title"); }
for (const control of document.querySelectorAll("a, button, summary")) {
  if (isSeen(control) && !(control.textContent.trim() || control.ariaLabel)) { wrong.push(`${control.outerHTML} has no words`); }
}
for (const field of document.querySelectorAll("input")) {
  if (!field.labels.length && !field.ariaLabel) { wrong.push(`${field.outerHTML} has no label`); }
}
for (const table of document.querySelectorAll("table")) {
  if (!table.caption || !table.querySelector("th[scope]")) { wrong.push(`${name(table)} has no caption or no heads`); }
}
const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
for (const id of new Set(ids)) {
  if (ids.filter((each) => each === id).length > 1) { wrong.push(`two elements are #${id}`); }
}
for (const element of document.querySelectorAll("[aria-labelledby], [aria-describedby]")) {
  for (const id of `${element.getAttribute("aria-labelledby") ?? ""} ${element.getAttribute("aria-describedby") ?? ""}`.split(" ")) {
    if (id && !document.getElementById(id)) { wrong.push(`${name(element)} is described by #${id}, which is not there`); }
  }
}
const levels = [...document.querySelectorAll("main :is(h1, h2, h3, h4)")].map((heading) => Number(heading.localName[1]));
levels.forEach((level, place) => {
  if (level > (levels[place - 1] ?? 0) + 1) { wrong.push(`an h${level} follows an h${levels[place - 1] ?? 0}`); }
});
// Where something scrolls by itself, keys reach it.
for (const box of document.querySelectorAll("main *")) {
  const scrolls = /auto|scroll/.test(getComputedStyle(box).overflowX) && box.scrollWidth > box.clientWidth;
  if (scrolls && isSeen(box) && box.tabIndex < 0 && !box.querySelector("a, button, [tabindex]")) {
    wrong.push(`${name(box)} scrolls, and no key reaches it`);
  }
}
return wrong;
