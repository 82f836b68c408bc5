// What moves on the report beside its frame: charts, switches, sorting, copying. Without it every table still reads.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;

  // ---- Charts: plotly travels compressed; figures name colours of the page, resolved for the theme in use.
  const charts = all(".chart").map((element) => ({
    element,
    specs: JSON.parse(element.parentElement.querySelector(".specs").textContent),
    view: 0,
  }));

  async function loadPlotly() {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  function resolveColours(value, colours) {
    if (typeof value === "string") {
      return value.startsWith("var(") ? colours.getPropertyValue(value.slice(4, -1)).trim() : value;
    }
    if (Array.isArray(value)) return value.map((one) => resolveColours(one, colours));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, resolveColours(one, colours)]));
  }

  const axis = {
    gridcolor: "var(--line)", zerolinecolor: "var(--line)", linecolor: "var(--line)", tickcolor: "var(--line)",
    title: { font: { size: 12 }, standoff: 8 },
  };
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 8, r: 10, t: 8, b: 8 },
    font: { size: 12, color: "var(--muted)" },
    hoverlabel: { bgcolor: "var(--surface)", bordercolor: "var(--line)", font: { color: "var(--ink)", size: 12 } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: "var(--muted)", activecolor: "var(--focus)" },
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1.03, yanchor: "bottom", font: { size: 12 } },
    xaxis: axis,
    yaxis: axis,
  };
  const config = {
    responsive: true, displaylogo: false, displayModeBar: true, scrollZoom: false,
    modeBarButtons: [["toImage", "resetScale2d"]],
    toImageButtonOptions: { format: "svg" },
  };

  function merge(base, extra) {
    const merged = { ...base };
    for (const [key, value] of Object.entries(extra)) {
      const nested = value !== null && typeof value === "object" && !Array.isArray(value) && key in merged;
      merged[key] = nested ? merge(merged[key], value) : value;
    }
    return merged;
  }

  function drawChart({ element, specs, view }) {
    const colours = getComputedStyle(root);
    const spec = specs[view];
    const height = Number(element.dataset.height);
    const font = { font: { family: getComputedStyle(document.body).fontFamily }, height };
    const full = resolveColours(merge(merge(layout, font), spec.layout), colours);
    const isFlat = spec.data.every((trace) => trace.type !== "treemap");
    const buttons = isFlat ? config : { ...config, modeBarButtons: [["toImage"]] };
    return Plotly.react(element, resolveColours(spec.data, colours), full, buttons);
  }

  async function drawCharts() {
    if (!window.Plotly) return;
    for (const chart of charts) {
      await drawChart(chart);
      await new Promise((resolve) => setTimeout(resolve));
    }
    root.dataset.charts = "drawn";
  }

  // ---- Switches: one button of a group is pressed.
  function press(button) {
    for (const other of all("[aria-pressed]", button.parentElement)) {
      other.setAttribute("aria-pressed", String(other === button));
    }
  }

  function showView(figure, index) {
    const chart = charts.find(({ element }) => figure.contains(element));
    chart.view = index;
    showTable(figure, index);
    if (window.Plotly) drawChart(chart);
  }

  function showTable(figure, index) {
    for (const table of all("[data-table]", figure)) table.hidden = Number(table.dataset.table) !== index;
  }

  function showCutoff(cutoff) {
    for (const board of all("[data-board]")) board.hidden = board.dataset.board !== cutoff;
  }

  function showExamples(which) {
    for (const example of all("[data-kind]")) example.hidden = which !== "all" && example.dataset.kind !== which;
  }

  document.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button) return;
    if (button.hasAttribute("aria-pressed")) press(button);
    if (button.dataset.view) showView(button.closest("figure"), Number(button.dataset.view));
    if (button.dataset.cutoff) showCutoff(button.dataset.cutoff);
    if (button.dataset.which) showExamples(button.dataset.which);
    if (button.dataset.copy) copy(button, writeTable(button.dataset.copy));
    if (button.dataset.copyText) copy(button, document.getElementById(button.dataset.copyText).textContent);
    if (button.closest("th")) sortBy(button.closest("th"));
  });

  for (const figure of all("figure")) showTable(figure, 0);
  const pressed = document.querySelector('#cutoffs [aria-pressed="true"]');
  if (pressed) showCutoff(pressed.dataset.cutoff);

  // ---- Sorting: figures fall first, names rise first, figures that are not there come last.
  function sortBy(head) {
    const table = head.closest("table");
    const column = head.cellIndex;
    const isName = column === 0;
    const first = isName ? "ascending" : "descending";
    const second = isName ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? second : first;
    const sign = order === "ascending" ? 1 : -1;
    const rows = all("tbody tr", table).sort((a, b) => {
      if (isName) return sign * a.cells[0].textContent.localeCompare(b.cells[0].textContent);
      const [x, y] = [a, b].map((row) => row.cells[column].dataset.value);
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (Number(x) - Number(y));
    });
    for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    table.tBodies[0].append(...rows);
  }

  // ---- Copying: the result table shown, as Markdown, LaTeX or CSV, intervals in full in the last.
  const writers = {
    markdown: (head, rows) => {
      const line = (cells) => `| ${cells.join(" | ")} |`;
      const body = rows.map((row) => line(row.map((cell) => (cell.best ? `**${cell.text}**` : cell.text))));
      return [line(head), line(head.map((_, index) => (index ? "---:" : "---"))), ...body].join("\n");
    },
    latex: (head, rows) => {
      const escape = (text) => text.replace(/([\\&%$#_{}])/g, "\\$1");
      const line = (cells) => `${cells.join(" & ")} \\\\`;
      const body = rows.map((row) => line(row.map(({ text, best }) => (best ? `\\textbf{${escape(text)}}` : escape(text)))));
      const columns = `l${"r".repeat(head.length - 1)}`;
      return [`\\begin{tabular}{${columns}}`, "\\toprule", line(head.map(escape)), "\\midrule", ...body, "\\bottomrule",
        "\\end{tabular}"].join("\n");
    },
    csv: (head, rows) => {
      const quote = (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
      const wide = head.flatMap((name, index) => (rows.some((row) => row[index].interval) ? [name, `${name} interval`] : [name]));
      const body = rows.map((row) => row.flatMap((cell, index) => {
        const value = cell.value ?? cell.text;
        return rows.some((other) => other[index].interval) ? [value, cell.interval] : [value];
      }));
      return [wide, ...body].map((cells) => cells.map(quote).join(",")).join("\n");
    },
  };

  function writeTable(format) {
    const table = document.querySelector("[data-board]:not([hidden]) table");
    const head = all("thead th", table).map((cell) => cell.textContent.trim());
    const rows = all("tbody tr", table).map((row) => [...row.cells].map((cell) => ({
      text: cell.firstChild.textContent.trim(),
      value: cell.dataset.value,
      interval: cell.title,
      best: cell.querySelector("strong") !== null,
    })));
    return writers[format](head, rows);
  }

  async function copy(button, text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1200);
  }

  document.addEventListener("themechange", () => drawCharts());

  loadPlotly().then(drawCharts).catch(() => {
    for (const { element } of charts) {
      element.classList.add("late");
      element.textContent = "This chart needs a browser of 2023 or later.";
    }
  });
})();
