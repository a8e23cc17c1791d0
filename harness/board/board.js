"use strict";
// Lists the scores of the board: filters by name and choice, sorts by a click on a heading, and shows some at a time.
(() => {
  const table = document.getElementById("board");
  if (!table) return;
  const data = JSON.parse(document.getElementById("rows").textContent);
  const form = document.getElementById("filters");
  const more = document.getElementById("more");
  const STEP = 100, WIDTH = 150;
  const CHOICES = ["dataset", "protocol", "measure"];
  const heads = [...table.tHead.rows[0].cells];
  const text = (name, i) => data[name].texts[data[name].rows[i]];
  const number = (value, digits = 3) => {
    if (value === null) return "\u2013";
    const shown = value.toFixed(digits).replace("-", "\u2212");
    return /[1-9]/.test(shown) ? shown : shown.replace("\u2212", "");
  };
  const interval = (low, high) => low === null || high === null ? "\u2013" : `${number(low)} to ${number(high)}`;
  const shown = {
    score: (i) => number(data.score[i]),
    low: (i) => interval(data.low[i], data.high[i]),
    ceiling: (i) => number(data.ceiling[i]),
    ratio: (i) => number(data.ratio[i], 2),
    unique: (i) => number(data.unique[i]),
    unique_low: (i) => interval(data.unique_low[i], data.unique_high[i]),
    run: (i) => text("run", i) + (data.earlier[i] ? ` (+ ${data.earlier[i]} earlier)` : ""),
  };
  let rows = [], limit = STEP, order = { name: "score", ascending: false };

  const make = (tag, content, attributes = {}) => {
    const element = tag === "svg" || tag === "path" ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...[content].flat());
    return element;
  };

  // The place of each text in the alphabet: thousands of rows share a few texts.
  const alphabet = new Intl.Collator(undefined, { numeric: true });
  const ranks = (texts) => {
    const places = [];
    texts.map((_, k) => k).sort((a, b) => alphabet.compare(texts[a], texts[b])).forEach((k, place) => { places[k] = place; });
    return places;
  };
  for (const column of Object.values(data)) if (column && column.texts) column.ranks = ranks(column.texts);
  const key = (i) => data[order.name].texts ? data[order.name].ranks[data[order.name].rows[i]] : data[order.name][i];
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === null || y === null) return (x === null) - (y === null); // not measured: last
    const sign = order.ascending ? 1 : -1;
    return sign * (x - y) || a - b;
  };

  const plot = (i, scale) => {
    const x = (value) => (WIDTH * (value - scale.low) / (scale.high - scale.low)).toFixed(1);
    const line = (path, more) => make("path", [], { d: path, stroke: "currentColor", fill: "none", ...more });
    const parts = [];
    if (data.ceiling[i] !== null)
      parts.push(line(`M${x(data.ceiling[i])} 0v16`, { stroke: "var(--ink)", "stroke-dasharray": "3 2" }));
    if (data.low[i] !== null && data.high[i] !== null)
      parts.push(line(`M${x(data.low[i])} 8H${x(data.high[i])}`, { "stroke-width": 2, "stroke-opacity": 0.55 }));
    if (data.score[i] !== null) {
      const mark = text("mark", i), at = Number(x(data.score[i]));
      const shape = mark === "control" ? `M${at} 3.5l4.5 4.5l-4.5 4.5l-4.5 -4.5z` : `M${at - 4} 8a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z`;
      parts.push(line(shape, { fill: mark === "variant" ? "var(--paper)" : "currentColor", "stroke-width": 1.5 }));
    }
    return make("svg", parts, { width: WIDTH, height: 16, "aria-hidden": "true" });
  };

  const line = (i, scale) => {
    const row = make("tr", [], { class: `${text("mark", i)} ${text("mark", i) === "model" ? "" : "beside"}` });
    for (const head of heads) {
      const name = head.dataset.column;
      if (head.hidden) continue;
      if (name === "source") {
        const link = make("a", text("source", i), { href: data.pages[data.source.rows[i]] });
        row.append(make("th", [link, " ", make("span", text("label", i), { class: "kind" })], { scope: "row" }));
      } else if (name === "plot") row.append(make("td", plot(i, scale), { class: "plot" }));
      else row.append(make("td", shown[name] ? shown[name](i) : text(name, i), { class: head.className }));
    }
    return row;
  };

  const draw = () => {
    const values = rows.flatMap((i) => [data.score[i], data.low[i], data.high[i], data.ceiling[i]]);
    const scale = values.reduce((ends, value) => ({ low: Math.min(ends.low, value), high: Math.max(ends.high, value) }), { low: 0, high: 1e-9 });
    rows.sort(compare);
    table.tBodies[0].replaceChildren(...rows.slice(0, limit).map((i) => line(i, scale)));
    const n = Math.min(limit, rows.length);
    document.getElementById("shown").textContent = `${n.toLocaleString("en")} of ${rows.length.toLocaleString("en")} shown`;
    more.hidden = n === rows.length;
    more.textContent = `Show ${Math.min(STEP * 5, rows.length - n)} more`;
  };

  const hasOne = (name) => CHOICES.includes(name) && (form.elements[name].value !== "" || data[name].texts.length < 2);
  const isEmpty = (name) => name.startsWith("unique") && data.unique.every((value) => value === null);

  const filter = () => {
    const wanted = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [...CHOICES, "mark"].map((name) => [name, form.elements[name].value]).filter(([, value]) => value);
    rows = [];
    for (let i = 0; i < data.n; i++) {
      const words = `${text("source", i)} ${text("label", i)}`.toLowerCase();
      if (chosen.every(([name, value]) => text(name, i) === value) && wanted.every((word) => words.includes(word))) rows.push(i);
    }
    for (const head of heads)
      head.hidden = hasOne(head.dataset.column) || isEmpty(head.dataset.column);
    const protocol = form.elements.protocol.value.toLowerCase();
    for (const svg of document.querySelectorAll("svg[data-protocol]"))
      svg.style.display = protocol && svg.dataset.protocol !== protocol ? "none" : "";
    limit = STEP;
    draw();
  };

  for (const name of CHOICES) {
    const select = form.elements[name], texts = data[name].texts;
    select.append(make("option", "all", { value: "" }), ...texts.map((value) => make("option", value, { value })));
    select.value = texts[0];
    select.parentElement.hidden = texts.length < 2;
  }
  for (const head of heads.filter((one) => one.dataset.column !== "plot")) {
    const button = make("button", [...head.childNodes], { type: "button", title: "Sort by this column" });
    head.setAttribute("aria-sort", head.dataset.column === order.name ? "descending" : "none");
    button.addEventListener("click", () => {
      const name = head.dataset.column, again = order.name === name;
      order = { name, ascending: again ? !order.ascending : Boolean(data[name].texts) };
      for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", order.ascending ? "ascending" : "descending");
      draw();
    });
    head.append(button);
  }
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { limit += STEP * 5; draw(); });
  form.hidden = table.hidden = false;
  filter();
})();
