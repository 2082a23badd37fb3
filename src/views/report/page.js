// The table of trials: sorted, filtered, a page at a time. All text goes in by textContent.
"use strict";
// The live part makes its elements with it as well.
const make = (tag, attributes, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
};
(() => {
  const state = { stage: null, filter: "", only: "", sort: -1, down: false, page: 0 };
  const table = () => {
    const data = JSON.parse(document.getElementById("data").textContent);
    const place = document.getElementById("table");
    if (!data || !place || !data.stages.length) return;
    const base = place.dataset.case;
    const rowsAPage = 100;
    // A column of texts says each once.
    const spread = (column) => (Array.isArray(column) ? column : column.at.map((place) => (place < 0 ? null : column.words[place])));
    for (const stage of data.stages) {
      for (const name of ["state", "failure", "parent"]) stage[name] = spread(stage[name]);
      stage.values = stage.values.map(spread);
    }
    // A table that is drawn again, with newer trials, stays as it was set.
    if (state.stage === null) state.stage = data.stages.length - 1;

    const columnsOf = (stage) => [
      { name: "case", text: (r) => `${base}_${stage.index}_${stage.i[r]}`, key: (r) => stage.i[r] },
      { name: "state", text: (r) => stage.state[r], key: (r) => stage.state[r], kind: (r) => stage.state[r] },
      { name: "survivor", text: (r) => (stage.survivor[r] ? "yes" : stage.explorer?.[r] ? "explores" : ""), key: (r) => -stage.survivor[r] },
      ...stage.params.concat(stage.metrics).map((name, c) => ({
        name,
        text: (r) => (stage.values[c][r] === null ? "" : String(stage.values[c][r])),
        key: (r) => stage.values[c][r],
        number: stage.values[c].every((v) => v === null || typeof v === "number"),
      })),
      { name: "parent", text: (r) => stage.parent[r], key: (r) => stage.parent[r] },
      { name: "seconds", text: (r) => (stage.ms[r] === null ? "" : (stage.ms[r] / 1000).toFixed(3)), key: (r) => stage.ms[r] ?? -1, number: true },
      { name: "attempts", text: (r) => String(stage.attempts[r]), key: (r) => stage.attempts[r], number: true, links: true },
      { name: "failure", text: (r) => stage.failure[r] || "", key: (r) => stage.failure[r] },
    ];

    const before = (a, b) => {
      if (a === b) return 0;
      if (a === null || a === undefined) return 1;
      if (b === null || b === undefined) return -1;
      if (typeof a === "number" && typeof b === "number") return a - b;
      return String(a) < String(b) ? -1 : 1;
    };

    const logs = (stage, r) => {
      const links = [];
      const gone = stage.gone ? stage.gone[r] : 0;
      if (gone > 0) links.push("discarded ");
      for (let n = 1 + gone; n <= stage.attempts[r]; n++) {
        const dir = `${data.base}/${stage.index}_${encodeURIComponent(stage.name)}/${encodeURIComponent(`${base}_${stage.index}_${stage.i[r]}`)}/attempt_${n}`;
        links.push(`#${n} `, make("a", { href: `${dir}/stdout.log`, "aria-label": `stdout of attempt ${n}` }, "out"), " ", make("a", { href: `${dir}/stderr.log`, "aria-label": `stderr of attempt ${n}` }, "err"), " ");
      }
      return links;
    };

    const shown = make("p", { class: "note", role: "status", "aria-live": "polite" });
    const body = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Trials" });
    const redraw = () => {
      const stage = data.stages[state.stage];
      const columns = columnsOf(stage);
      const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
      let rows = [];
      for (let r = 0; r < stage.i.length; r++) {
        if (state.only === "survivors" ? !stage.survivor[r] : state.only && stage.state[r] !== state.only) continue;
        if (words.length) {
          const text = columns.map((c) => `${c.name}=${c.text(r)}`).join(" ").toLowerCase();
          if (!words.every((word) => text.includes(word))) continue;
        }
        rows.push(r);
      }
      const by = columns[state.sort];
      if (by) rows.sort((a, b) => before(by.key(a), by.key(b)) * (state.down ? -1 : 1) || stage.i[a] - stage.i[b]);
      const pages = Math.max(1, Math.ceil(rows.length / rowsAPage));
      state.page = Math.min(state.page, pages - 1);
      const visible = rows.slice(state.page * rowsAPage, (state.page + 1) * rowsAPage);
      const head = make("tr", {}, ...columns.map((column, c) => make("th", {
        scope: "col", class: column.number ? "n" : null,
        "aria-sort": c === state.sort ? (state.down ? "descending" : "ascending") : "none",
      }, make("button", { type: "button", onclick: () => { state.down = state.sort === c && !state.down; state.sort = c; state.page = 0; redraw(); body.querySelectorAll("th button")[c].focus(); } },
        column.name + (c === state.sort ? (state.down ? " ▼" : " ▲") : "")))));
      const lines = visible.map((r) => make("tr", { class: stage.survivor[r] ? "survivor" : null }, ...columns.map((column) => {
        const cell = make("td", { class: [column.number ? "n" : "", column.kind ? column.kind(r) : ""].join(" ").trim() || null });
        if (column.links && data.base !== null && stage.logs && stage.attempts[r]) cell.append(...logs(stage, r));
        else cell.textContent = column.text(r);
        return cell;
      })));
      body.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines)));
      const left = stage.left_out ? `; ${stage.left_out} more trials are in the store only` : "";
      shown.textContent = `${rows.length} of ${stage.i.length} trials, page ${state.page + 1} of ${pages}${left}`;
    };
    const turn = (pages) => { state.page = Math.max(0, state.page + pages); redraw(); };
    const choice = (label, options, chosen, change) => make("label", {}, label,
      make("select", { onchange: (event) => { change(event.target.value); state.page = 0; redraw(); } },
        ...options.map(([value, text]) => { const o = make("option", { value }, text); o.selected = String(value) === String(chosen); return o; })));
    const controls = make("div", { class: "controls" },
      choice("stage", data.stages.map((s, n) => [n, s.name]), state.stage, (value) => { state.stage = Number(value); state.sort = -1; }),
      choice("show", [["", "all"], ["survivors", "survivors"], ["succeeded", "succeeded"], ["failed", "failed"], ["pruned", "pruned"], ["pending", "pending"], ["cancelled", "cancelled"]], state.only, (value) => { state.only = value; }),
      make("label", {}, "containing", make("input", { type: "search", placeholder: "words, or param=value", value: state.filter, oninput: (event) => { state.filter = event.target.value; state.page = 0; redraw(); } })),
      make("button", { type: "button", onclick: () => turn(-1) }, "previous"),
      make("button", { type: "button", onclick: () => turn(1) }, "next"));
    place.replaceChildren(controls, shown, body);
    redraw();
  };
  // In the zone of whoever looks; the moment itself stays in the element.
  const times = () => {
    for (const element of document.querySelectorAll("time[datetime]")) {
      const at = new Date(element.dateTime);
      if (isNaN(at)) continue;
      element.title = element.dateTime;
      element.textContent = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
    }
  };
  const draw = () => { table(); times(); };
  draw();
  document.addEventListener("piton:page", draw);
})();
