// The tree of tree.js on the page: an icicle on a canvas, the same as a list beside it, and the search. Titles are
// written as text only, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const numGroups = data.has_groups ? 1 : 0;
  const numColumns = data.columns.length;
  const numLevels = numColumns - numGroups;
  const headHeight = 22;
  const canvas = document.getElementById("icicle");
  const panel = document.getElementById("panel");
  const crumbs = document.getElementById("crumbs");
  const tip = document.getElementById("tip");
  const query = document.getElementById("query");
  const hits = document.getElementById("hits");
  const inactive = new Set(data.inactive);
  const count = (value) => value.toLocaleString("en-US");
  const items = (value) => `${count(value)} item${value === 1 ? "" : "s"}`;

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  const { root, findAddress, isGroup, addressOf, typicalWords, topLabels, isItem, lastCode, nameOf, describe } = sidTree(data);

  // ---- Drawing. Boxes too thin to see are drawn as one with their parent's colour, never one by one.
  let focus = root;
  let hovered = null;
  let marked = -1;
  let view = { y0: 0, y1: 1, depth: 0 };
  let width = 0;
  let height = 0;
  const narrowColumn = 46;

  // Where a prefix has too many children to be read, a lens follows the pointer: boxes near it are drawn higher.
  const lens = { y: null, radius: 1, strength: 0 };

  function setLens(y) {
    const usual = height / Math.max(1, focus.children.length);
    lens.radius = height / 3;
    lens.strength = Math.max(0, 17 / usual - 1);
    lens.y = (y ?? height / 2) - headHeight;
  }

  function throughLens(y) {
    const away = (y - lens.y) / lens.radius;
    const size = Math.abs(away);
    if (size >= 1 || lens.strength === 0) return y;
    return lens.y + lens.radius * Math.sign(away) * (((lens.strength + 1) * size) / (lens.strength * size + 1));
  }

  function withoutLens(y) {
    const away = (y - lens.y) / lens.radius;
    const size = Math.abs(away);
    if (size >= 1 || lens.strength === 0) return y;
    return lens.y + (lens.radius * Math.sign(away) * size) / (lens.strength + 1 - lens.strength * size);
  }

  function columnEdges(depth) {
    const hidden = Math.floor(depth);
    const part = depth - hidden;
    const at = (whole) => {
      const edges = [];
      const head = whole === 0 ? 0 : narrowColumn;
      const near = numColumns - whole <= 2 ? [1, 1.8] : [1.6, 1.2];
      const weights = Array.from({ length: numColumns - whole }, (_, index) => near[index] || 0.8);
      const unit = (width - head) / weights.reduce((sum, one) => sum + one, 0);
      for (let depth = 0; depth <= numColumns + 1; depth += 1) {
        if (depth < whole) edges.push(-narrowColumn * (whole - depth));
        else if (depth === whole) edges.push(whole === 0 ? -narrowColumn : 0);
        else edges.push(head + unit * weights.slice(0, depth - whole - 1).reduce((sum, one) => sum + one, 0));
      }
      edges[numColumns + 1] = width;
      return edges;
    };
    const from = at(hidden);
    if (part === 0) return from;
    const to = at(Math.min(hidden + 1, numColumns));
    return from.map((edge, index) => edge + (to[index] - edge) * part);
  }

  let colours = {};
  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim();
    colours = { page: value("--surface"), ink: value("--ink"), muted: value("--muted"), focus: value("--focus"),
      none: value("--note-soft"), dark: style.colorScheme.includes("dark"), font: getComputedStyle(document.body).fontFamily };
  }

  function fillOf(node) {
    if (isItem(node) && inactive.has(node.first)) return colours.none;
    const step = (node.depth - 1) * (3 / numColumns);
    const shift = node.odd ? 3 : 0;
    return colours.dark
      ? `hsl(${node.hue} 34% ${33 - 4 * step + shift}%)`
      : `hsl(${node.hue} 52% ${80 + Math.min(12, 4 * step) + shift}%)`;
  }

  function draw() {
    const context = canvas.getContext("2d");
    const scale = window.devicePixelRatio || 1;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.fillStyle = colours.page;
    context.fillRect(0, 0, width, height);
    const edges = columnEdges(view.depth);
    const inner = height - headHeight;
    const pixels = inner / (view.y1 - view.y0);
    const top = (y) => headHeight + throughLens((y - view.y0) * pixels);

    const paint = (node) => {
      if (node.y1 <= view.y0 || node.y0 >= view.y1) return;
      const y0 = Math.max(headHeight, top(node.y0));
      const y1 = Math.min(height, top(node.y1));
      const thin = top(node.y1) - top(node.y0) < 1.5;
      const left = edges[node.depth];
      const right = thin ? width : edges[node.depth + 1];
      if (right > 0) box(context, node, left, y0, right - left, y1 - y0);
      if (!thin) for (const child of node.children) paint(child);
    };
    for (const child of root.children) paint(child);
    writeHeads(context, edges);
  }

  function headOf(depth) {
    if (data.has_groups && depth === 1) return "group";
    if (depth === numColumns) return data.total === data.counts[numColumns - 1].reduce((sum, one) => sum + one, 0) ? "item" : "item (some)";
    return depth - numGroups === 1 ? "first code" : `code ${depth - numGroups}`;
  }

  function writeHeads(context, edges) {
    context.font = `600 11px ${colours.font}`;
    context.fillStyle = colours.muted;
    context.textBaseline = "middle";
    for (let depth = 1; depth <= numColumns; depth += 1) {
      if (edges[depth + 1] - edges[depth] > 60) context.fillText(headOf(depth), edges[depth] + 6, headHeight / 2 - 1);
    }
  }

  function box(context, node, x, y, wide, high) {
    const gap = high > 3 ? 1 : 0;
    context.fillStyle = fillOf(node);
    context.fillRect(x, y, wide - 1, high - gap);
    if (node === hovered || (isItem(node) && node.first === marked)) {
      context.strokeStyle = colours.focus;
      context.lineWidth = 2;
      context.strokeRect(x + 1, y + 1, wide - 3, Math.max(1, high - gap - 2));
    }
    if (high < 12 || wide < 24) return;
    const size = Math.min(12, Math.max(10, high - 3));
    const gone = isItem(node) && inactive.has(node.first);
    context.font = `${node.depth <= focus.depth ? 600 : 400} ${size}px ${colours.font}`;
    context.textBaseline = "middle";
    const code = lastCode(node);
    const text = isItem(node) ? `${code}  ${data.titles[node.first]}${gone ? " (removed)" : ""}` : wide < 90 ? code : `${code}  ${describe(node)}`.trim();
    context.save();
    context.beginPath();
    context.rect(x, y, wide - 6, high);
    context.clip();
    context.fillStyle = gone ? colours.muted : colours.ink;
    const middle = y + (high - gap) / 2;
    const twoLines = high > 32 && !isItem(node) && wide >= 60;
    context.fillText(text, x + 6, twoLines ? middle - 7 : middle);
    if (twoLines) {
      context.font = `400 11px ${colours.font}`;
      context.fillStyle = colours.muted;
      context.fillText(wide < 90 ? count(node.size) : items(node.size), x + 6, middle + 8);
    }
    context.restore();
  }

  function nodeAt(x, y) {
    const edges = columnEdges(view.depth);
    const share = view.y0 + (withoutLens(y - headHeight) / (height - headHeight)) * (view.y1 - view.y0);
    let node = root;
    while (true) {
      const child = node.children.find((one) => share >= one.y0 && share < one.y1);
      if (!child || edges[child.depth] > x) return node;
      node = child;
    }
  }

  // ---- Moving: one prefix fills the height; the address keeps it, so that back goes back and a link can point at it.
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let animation = 0;

  function goTo(node) {
    const address = `#at=${addressOf(node)}`;
    if (location.hash === address) show(node);
    else location.hash = address.slice(1);
  }

  function show(node, mark = -1) {
    marked = mark;
    focus = node;
    setLens(null);
    const target = { y0: node.y0, y1: node.y1, depth: node.depth };
    const start = { ...view };
    const began = performance.now();
    cancelAnimationFrame(animation);
    const step = (now) => {
      const part = still.matches ? 1 : Math.min(1, Math.max(0, (now - began) / 260));
      const ease = 1 - (1 - part) ** 3;
      for (const key of Object.keys(view)) view[key] = start[key] + (target[key] - start[key]) * ease;
      if (part === 1) view = { ...target };
      draw();
      if (part < 1) animation = requestAnimationFrame(step);
    };
    step(began);
    animation = requestAnimationFrame(step);
    writeCrumbs();
    writePanel();
  }

  /** Shows what the address names: a prefix, or an item within its parent. */
  function showAddress() {
    if (!location.hash.startsWith("#at=")) return false;
    const node = findAddress(location.hash.slice(4));
    if (!node) return false;
    if (isItem(node) && node.parent) show(node.parent, node.first);
    else show(node);
    return true;
  }

  // ---- Words beside the tree.
  function writeCrumbs() {
    const path = [];
    for (let node = focus; node; node = node.parent) path.unshift(node);
    crumbs.replaceChildren(...path.flatMap((node, index) => {
      const button = element("button", { type: "button", textContent: node === root ? "All items" : isGroup(node) ? "Group" : lastCode(node) });
      if (node === focus) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => goTo(node));
      return index ? [element("span", { textContent: "›" }), button] : [button];
    }));
  }

  function line(node) {
    const what = element("span", { className: "what" });
    if (isItem(node)) {
      what.append(element("span", { className: inactive.has(node.first) ? "gone" : "", textContent: data.titles[node.first] }));
      const old = data.moved[node.first];
      const notes = [data.ids[node.first] === data.titles[node.first] ? "" : `id ${data.ids[node.first]}`,
        old ? `moved from ${old.join("-")}` : "", inactive.has(node.first) ? "removed" : ""].filter(Boolean);
      if (notes.length) what.append(element("small", { textContent: notes.join(" · ") }));
    } else {
      what.append(element("span", { textContent: describe(node) || "(no common word)" }), element("small", { textContent: isGroup(node) ? `${items(node.size)}, ${node.children.length} first codes` : items(node.size) }));
    }
    const code = element("span", { className: "codes", textContent: lastCode(node) });
    const button = element("button", { type: "button" }, what, code);
    button.addEventListener("click", () => goTo(node));
    const made = element("li", { className: isItem(node) && node.first === marked ? "here" : "" }, button);
    return made;
  }

  function sharedLines(node) {
    const lines = [];
    for (let row = node.first; row < node.end; row += 1) {
      const title = element("span", { className: inactive.has(row) ? "gone" : "", textContent: data.titles[row] });
      lines.push(element("li", {}, element("button", { type: "button", disabled: true }, title, element("span", { className: "codes", textContent: data.ids[row] }))));
    }
    return lines;
  }

  function writePanel() {
    const most = 60;
    const head = [element("h3", { textContent: focus === root || isGroup(focus) ? nameOf(focus) : `Prefix ${nameOf(focus)}` })];
    const share = focus === root ? "" : `, ${((100 * focus.size) / data.total).toFixed(focus.size / data.total < 0.01 ? 2 : 1)}% of all`;
    head.push(element("p", { textContent: `${items(focus.size)}${share}` }));
    const words = typicalWords(focus);
    if (words.length) head.push(element("p", { className: "about" }, element("b", { textContent: "Typical words" }), words.join(", ")));
    for (const column of Object.keys(data.labels)) {
      const labels = topLabels(focus, column, 3);
      if (labels.length) head.push(element("p", { className: "about" }, element("b", { textContent: `Commonest ${column.replaceAll("_", " ")}` }), labels.join(", ")));
    }
    const isLast = focus.depth === numColumns;
    const lines = isLast ? sharedLines(focus) : [...focus.children].sort((a, b) => (b.first === marked) - (a.first === marked) || b.size - a.size || a.first - b.first).map(line);
    const kind = focus.depth >= numGroups + 1 ? "Next codes" : focus === root && data.has_groups ? "Groups of first codes" : "First codes";
    const title = isLast ? "Items that share this ID" : focus.depth === numColumns - 1 ? "Items" : `${kind}: ${count(focus.children.length)}`;
    const list = element("ol", {}, ...lines.slice(0, most));
    const shown = lines.slice(0, most).length;
    if (lines.length > shown) list.append(element("li", { className: "none", textContent: `and ${count(lines.length - shown)} more` }));
    const away = focus.size - (isLast ? focus.end - focus.first : focus.children.reduce((sum, child) => sum + child.size, 0));
    if (away > 0) list.append(element("li", { className: "none", textContent: `${items(away)} below it are not on this page` }));
    panel.replaceChildren(...head, element("h4", { textContent: title }), list);
    panel.scrollTop = 0;
  }

  function writeTip(node, x, y) {
    tip.hidden = node === root;
    if (tip.hidden) return;
    const lines = [element("b", { textContent: nameOf(node) })];
    if (isItem(node)) {
      lines.push(element("span", { textContent: data.titles[node.first] }));
      const old = data.moved[node.first];
      if (old) lines.push(element("small", { textContent: `moved from ${old.join("-")}` }));
      if (inactive.has(node.first)) lines.push(element("small", { textContent: "removed: keeps its ID, is never recommended" }));
    } else {
      lines.push(element("small", { textContent: `${items(node.size)}${typicalWords(node).length ? ": " : ""}${typicalWords(node).join(", ")}` }));
      const step = Math.max(1, Math.floor((node.end - node.first) / 3));
      for (let row = node.first, shown = 0; row < node.end && shown < 3; row += step, shown += 1) lines.push(element("span", { textContent: data.titles[row] }));
    }
    for (const column of Object.keys(data.labels)) {
      const labels = topLabels(node, column, 2);
      if (labels.length) lines.push(element("small", { textContent: `${column.replaceAll("_", " ")}: ${isItem(node) ? labels[0].replace(/ \d+%$/, "") : labels.join(", ")}` }));
    }
    tip.replaceChildren(...lines);
    const room = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - room.width - 8))}px`;
    tip.style.top = `${y + 18 + room.height > innerHeight ? Math.max(8, y - room.height - 10) : y + 18}px`;
  }

  // ---- Hands: pointer, keys, search.
  function pointed(event) {
    const place = canvas.getBoundingClientRect();
    return nodeAt(event.clientX - place.left, event.clientY - place.top);
  }

  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    const y = event.clientY - canvas.getBoundingClientRect().top;
    const isStill = lens.strength === 0;
    setLens(y);
    const node = pointed(event);
    if (node !== hovered || !isStill) {
      hovered = node;
      draw();
    }
    writeTip(node, event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", () => {
    hovered = null;
    tip.hidden = true;
    setLens(null);
    draw();
  });
  canvas.addEventListener("click", (event) => {
    const node = pointed(event);
    tip.hidden = true;
    goTo(node.depth <= focus.depth && focus.parent ? focus.parent : node);
  });
  canvas.addEventListener("keydown", (event) => {
    const siblings = focus.parent ? focus.parent.children : [focus];
    const place = siblings.indexOf(focus);
    const inner = focus.children.filter((child) => !isItem(child));
    const moves = {
      ArrowLeft: () => focus.parent,
      Escape: () => focus.parent,
      Backspace: () => focus.parent,
      Home: () => root,
      ArrowRight: () => inner.reduce((best, child) => (best && best.size >= child.size ? best : child), null),
      Enter: () => inner.reduce((best, child) => (best && best.size >= child.size ? best : child), null),
      ArrowUp: () => siblings[place - 1],
      ArrowDown: () => siblings[place + 1],
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const node = moves[event.key]();
    if (node) goTo(node);
  });

  function search(text) {
    const wanted = text.trim().toLowerCase();
    if (!wanted) return [];
    const codes = /^[^\p{L}]*\d+\D+\d+/u.test(wanted) || wanted.startsWith("<") ? wanted.match(/\d+/g).map(Number) : null;
    const [exact, partial] = [[], []];
    for (let row = 0; row < data.ids.length; row += 1) {
      const matchesSid = codes && codes.length <= numLevels && codes.every((code, level) => data.columns[numGroups + level][row] === code);
      if (matchesSid || data.ids[row].toLowerCase() === wanted) exact.push(row);
      else if (data.titles[row].toLowerCase().includes(wanted)) partial.push(row);
    }
    return [...exact, ...partial].slice(0, 30);
  }

  function sidOf(row) {
    return data.columns.slice(numGroups).map((column) => column[row]).join("-");
  }

  function writeHits() {
    const rows = search(query.value);
    hits.hidden = !query.value.trim();
    hits.replaceChildren(...rows.map((row) => {
      const button = element("button", { type: "button" }, element("span", { className: inactive.has(row) ? "gone" : "", textContent: data.titles[row] }),
        element("span", { className: "codes", textContent: sidOf(row) }));
      button.addEventListener("click", () => {
        hits.hidden = true;
        location.hash = `at=${sidOf(row)}`;
        showAddress();
      });
      return element("li", {}, button);
    }));
    if (!rows.length) hits.append(element("li", { className: "none", textContent: "No item with this title, id or semantic ID." }));
  }

  query.addEventListener("input", writeHits);
  query.addEventListener("focus", () => { if (query.value.trim()) writeHits(); });
  query.form.addEventListener("submit", (event) => {
    event.preventDefault();
    hits.querySelector("button")?.click();
  });
  query.form.addEventListener("keydown", (event) => {
    const buttons = [...hits.querySelectorAll("button")];
    const next = buttons.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
    if (event.key === "Escape") hits.hidden = true;
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    (next < 0 ? query : buttons[Math.min(next, buttons.length - 1)])?.focus();
  });
  document.addEventListener("click", ({ target }) => {
    if (!query.form.contains(target)) hits.hidden = true;
    const link = target.closest('a[href^="#at="]');
    if (link) document.getElementById("tree").scrollIntoView();
  });

  // ---- Begin.
  function resize() {
    const place = canvas.getBoundingClientRect();
    const scale = window.devicePixelRatio || 1;
    width = place.width;
    height = place.height;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    setLens(null);
    draw();
  }

  document.addEventListener("themechange", () => {
    readColours();
    draw();
  });
  addEventListener("hashchange", showAddress);
  readColours();
  new ResizeObserver(resize).observe(canvas);
  resize();
  if (!showAddress()) show(root);
  document.documentElement.dataset.tree = "drawn";
})();
