"use strict";
// Sorts tables by a click on a heading, filters rows by words, and shows one protocol alone. Without scripts the page
// shows everything in its original order.
(() => {
  const units = { k: 1e3, M: 1e6, B: 1e9 };
  const number = (text) => {
    const plain = text.trim().replace(/\u2212/g, "-").replace(/,/g, "").replace(/^[<>+]\s*/, "");
    if (plain === "" || plain === "\u2013") return NaN;
    const match = /^(-?\d*\.?\d+(?:e[-+]?\d+)?)(?:\s*([kMB])\b)?/.exec(plain);
    return match ? Number(match[1]) * (units[match[2]] || 1) : undefined;
  };
  const body = (table) => table.tBodies[0];
  const cell = (row, column) => row.cells[column].textContent;

  const sort = (table, column, header) => {
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    const rows = [...body(table).rows];
    const values = new Map(rows.map((row) => [row, number(cell(row, column))]));
    const words = [...values.values()].some((value) => value === undefined);
    const order = (a, b) => {
      if (words) return cell(a, column).localeCompare(cell(b, column), undefined, { numeric: true });
      const [x, y] = [values.get(a), values.get(b)];
      if (Number.isNaN(x) || Number.isNaN(y)) return (Number.isNaN(x) - Number.isNaN(y)) * (ascending ? 1 : -1);
      return x - y;
    };
    rows.sort((a, b) => (ascending ? 1 : -1) * order(a, b));
    for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    body(table).append(...rows);
  };

  const filter = (table, words, status) => {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body(table).rows) {
      const text = row.textContent.toLowerCase();
      const fits = wanted.every((word) => text.includes(word));
      row.classList.toggle("unwanted", !fits);
      shown += fits;
    }
    status.textContent = wanted.length ? `${shown} of ${body(table).rows.length} rows` : "";
  };

  const equip = (table) => {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.title = "Sort by this column";
      button.addEventListener("click", () => sort(table, column, header));
      header.setAttribute("aria-sort", "none");
      header.append(button);
    });
    if (body(table).rows.length < 6) return;
    const box = document.createElement("p");
    const field = document.createElement("input");
    const status = document.createElement("span");
    box.className = "filter";
    field.type = "search";
    field.placeholder = "Filter rows";
    field.setAttribute("aria-label", `Filter rows: ${table.caption.textContent.slice(0, 80)}`);
    status.setAttribute("role", "status");
    field.addEventListener("input", () => filter(table, field.value, status));
    box.append(field, status);
    table.parentElement.before(box);
  };

  const show = (protocol) => {
    document.body.dataset.show = protocol;
    for (const table of document.querySelectorAll("table[data-columns]")) {
      const columns = table.dataset.columns.split(" ");
      const hidden = (name) => protocol !== "all" && name !== "-" && name !== protocol;
      if (!columns.some((name) => name !== "-")) continue;
      for (const group of table.tHead.rows[0].cells) group.hidden = hidden(group.dataset.protocol || "-");
      for (const row of [table.tHead.rows[table.tHead.rows.length - 1], ...body(table).rows])
        [...row.cells].forEach((item, column) => { item.hidden = hidden(columns[column]); });
    }
    for (const element of document.querySelectorAll("[data-protocol]:not(th):not(td)"))
      element.hidden = protocol !== "all" && element.dataset.protocol !== "" && element.dataset.protocol !== protocol;
    for (const svg of document.querySelectorAll("svg[data-protocol]"))
      svg.style.display = protocol !== "all" && svg.dataset.protocol !== protocol ? "none" : "";
  };

  document.querySelectorAll("main table:not(#board)").forEach(equip);
  const choice = document.getElementById("protocols");
  if (choice) {
    choice.hidden = false;
    choice.addEventListener("change", (event) => show(event.target.value));
  }
  // Print collapsed tables too.
  const folded = [...document.querySelectorAll("details")];
  addEventListener("beforeprint", () => folded.forEach((box) => { box.dataset.was = box.open; box.open = true; }));
  addEventListener("afterprint", () => folded.forEach((box) => { box.open = box.dataset.was === "true"; }));
})();
