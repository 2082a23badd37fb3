// The page of many studies: rows come from the server as they change, made by the template that made the page.
"use strict";
(() => {
  const body = document.querySelector("#studies tbody");
  const said = document.getElementById("said");
  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const ask = stopping(document.getElementById("stop-dialog"), (text) => put(said, text));
  // Trouble is over when there is news; the answer to a request stays.
  let trouble = false;
  const complain = (text) => { trouble = true; put(said, text); };

  // By the server's clock.
  let ahead = Date.now() - Number(document.getElementById("main").dataset.now);
  const ages = () => {
    for (const element of body.querySelectorAll("time")) {
      const at = Date.parse(element.dateTime);
      if (isNaN(at)) continue;
      put(element, time(Math.max(0, (Date.now() - ahead - at) / 1000)));
      if (!element.title) element.title = new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
    }
  };

  const sift = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of body.rows) {
      const text = words.length ? row.textContent.toLowerCase() : "";
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) count += 1;
    }
    put(shown, `${count} of ${body.rows.length} shown`);
  };

  // A row that is replaced keeps the focus, as far as it has the same to offer.
  const place = (row) => {
    const old = document.getElementById(row.id);
    if (!old) return void body.append(row);
    const held = old.contains(document.activeElement) ? document.activeElement.tagName : null;
    old.replaceWith(row);
    if (held) row.querySelector(held)?.focus();
  };

  const show = (studies) => {
    ahead = Date.now() - studies.now;
    const parsed = new DOMParser().parseFromString(`<table><tbody>${studies.rows}</tbody></table>${studies.unreadable}`, "text/html");
    for (const row of [...parsed.querySelectorAll("tr")]) place(document.adoptNode(row));
    if (studies.order) {
      const there = new Set(studies.order);
      for (const row of [...body.rows]) if (!there.has(row.dataset.key)) row.remove();
      let at = body.firstElementChild;
      for (const key of studies.order) {
        const row = document.getElementById(`study-${key}`);
        if (row === at) at = at.nextElementSibling;
        else if (row) body.insertBefore(row, at);
      }
    }
    document.getElementById("unreadable").replaceWith(document.adoptNode(parsed.getElementById("unreadable")));
    put(document.getElementById("totals"), studies.totals);
    if (trouble) put(said, "");
    trouble = false;
    ages();
    sift();
  };

  body.addEventListener("click", (event) => {
    const button = event.target.closest("button.stop");
    if (!button) return;
    document.getElementById("stop-name").textContent = button.dataset.name;
    ask(`study/${button.closest("tr").dataset.key}/stop`);
  });
  filter.addEventListener("input", sift);
  document.getElementById("tools").hidden = false;
  ages();
  sift();
  setInterval(ages, 1000);
  listen({ studies: show }, complain, () => {});
})();
