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

  // Figures as files: SVG, and PNG drawn on a canvas, since the policy of the page forbids loading the SVG as an image.
  const GAP = 16;
  const paint = (colour) => (colour || "none").replace(/var\([^,]*,\s*([^)]+)\)/, "$1").replace("currentColor", "#1b1b1b");

  const standalone = (figure) => {
    const create = (tag) => document.createElementNS(figure.querySelector("svg").namespaceURI, tag);
    const root = create("svg");
    let [x, height] = [GAP, 0];
    for (const panel of figure.querySelectorAll("svg.panel")) {
      if (panel.style.display === "none") continue;
      const copy = panel.cloneNode(true);
      const size = panel.viewBox.baseVal;
      for (const [name, value] of Object.entries({ x, y: GAP, width: size.width, height: size.height })) copy.setAttribute(name, value);
      for (const node of copy.querySelectorAll("*"))
        for (const name of ["fill", "stroke"]) if (node.hasAttribute(name)) node.setAttribute(name, paint(node.getAttribute(name)));
      copy.setAttribute("fill", "#1b1b1b");
      root.append(copy);
      [x, height] = [x + size.width + GAP, Math.max(height, size.height)];
    }
    const all = { viewBox: `0 0 ${x} ${height + 2 * GAP}`, width: x, height: height + 2 * GAP, "font-family": "system-ui, sans-serif" };
    for (const [name, value] of Object.entries(all)) root.setAttribute(name, value);
    const paper = create("rect");
    for (const [name, value] of Object.entries({ width: "100%", height: "100%", fill: "#ffffff" })) paper.setAttribute(name, value);
    root.prepend(paper);
    return root;
  };

  const shapeOf = (node) => {
    const at = (name) => Number(node.getAttribute(name));
    const path = new Path2D(node.tagName === "path" ? node.getAttribute("d") : undefined);
    const corners = (node.getAttribute("points") || "").trim().split(/\s+/).map((pair) => pair.split(",").map(Number));
    if (node.tagName === "line") { path.moveTo(at("x1"), at("y1")); path.lineTo(at("x2"), at("y2")); }
    if (node.tagName === "rect") path.rect(at("x"), at("y"), at("width"), at("height"));
    if (node.tagName === "circle") path.arc(at("cx"), at("cy"), at("r"), 0, 2 * Math.PI);
    if (node.tagName.startsWith("poly")) corners.forEach(([x, y]) => path.lineTo(x, y));
    if (node.tagName === "polygon") path.closePath();
    return path;
  };

  const draw = (context, node, outer) => {
    const get = (name) => node.getAttribute(name);
    const style = { fill: get("fill") || outer.fill, stroke: get("stroke") || outer.stroke };
    context.save();
    if (node.tagName === "svg" && get("x")) context.translate(Number(get("x")), Number(get("y")));
    const turn = /translate\(([\d.]+) ([\d.]+)\) rotate\((-?\d+)\)/.exec(get("transform") || "");
    if (turn) { context.translate(Number(turn[1]), Number(turn[2])); context.rotate(Number(turn[3]) * Math.PI / 180); }
    if (node.tagName === "text") {
      context.font = `${get("font-weight") || "normal"} 12px system-ui, sans-serif`;
      context.textAlign = { middle: "center", end: "right" }[get("text-anchor")] || "left";
      context.globalAlpha = Number(get("fill-opacity") || 1);
      context.fillStyle = style.fill;
      context.fillText(node.textContent, Number(get("x") || 0), Number(get("y") || 0));
    } else if (!["svg", "g", "title"].includes(node.tagName)) {
      const shape = shapeOf(node);
      [context.globalAlpha, context.fillStyle] = [Number(get("fill-opacity") || 1), style.fill];
      if (style.fill !== "none" && node.tagName !== "line") context.fill(shape);
      [context.globalAlpha, context.strokeStyle] = [Number(get("stroke-opacity") || 1), style.stroke];
      context.lineWidth = Number(get("stroke-width") || 1);
      context.setLineDash((get("stroke-dasharray") || "none") === "none" ? [] : get("stroke-dasharray").split(" ").map(Number));
      if (style.stroke !== "none") context.stroke(shape);
    }
    if (node.tagName !== "title") for (const child of node.children) draw(context, child, style);
    context.restore();
  };

  const save = (blob, name) => {
    const link = document.createElement("a");
    [link.href, link.download] = [URL.createObjectURL(blob), name];
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const forms = {
    SVG: (root, name) => save(new Blob([new XMLSerializer().serializeToString(root)], { type: "image/svg+xml" }), `${name}.svg`),
    PNG: (root, name) => {
      const [canvas, sharp] = [document.createElement("canvas"), 3];
      const [width, height] = ["width", "height"].map((side) => Number(root.getAttribute(side)));
      [canvas.width, canvas.height] = [width * sharp, height * sharp];
      const context = canvas.getContext("2d");
      context.scale(sharp, sharp);
      context.fillStyle = "#ffffff";
      context.fillRect(0, 0, width, height);
      for (const panel of root.querySelectorAll("svg")) draw(context, panel, { fill: "#1b1b1b", stroke: "none" });
      canvas.toBlob((blob) => save(blob, `${name}.png`));
    },
  };

  [...document.querySelectorAll("main figure")].filter((figure) => figure.querySelector("svg.panel")).forEach((figure, k) => {
    const box = figure.querySelector(".save") || figure.appendChild(document.createElement("p"));
    box.className = "save";
    const buttons = Object.entries(forms).map(([form, write]) => {
      const button = document.createElement("button");
      [button.type, button.textContent, button.title] = ["button", form, `Save this figure as ${form}`];
      button.addEventListener("click", () => write(standalone(figure), box.dataset.name || `figure-${k + 1}`));
      return button;
    });
    box.prepend(...buttons);
  });

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
