// The live part: how the study stands, as the server tells it, and the rest of the page fetched again when trials have ended.
// All text goes in by textContent.
"use strict";
(() => {
  const place = document.getElementById("live");
  if (!place) return;
  const number = (value) => (Math.abs(value) >= 1e6 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toPrecision(5) : String(Number(value.toPrecision(6))));
  const words = make("p", { class: "note", role: "status", "aria-live": "polite" });
  const body = make("div", {});
  const stop = document.getElementById("stop");
  place.append(words, body);

  const say = (text) => { if (words.textContent !== text) words.textContent = text; };
  let last = null;

  const stageLine = (stage) => {
    const done = stage.succeeded + stage.failed + (stage.pruned || 0);
    const pieces = [`${done} of ${stage.expected} done`];
    if (stage.running) pieces.push(`${stage.running} running`);
    if (stage.failed) pieces.push(`${stage.failed} failed`);
    if (stage.pruned) pieces.push(`${stage.pruned} pruned`);
    if (stage.per_minute !== null && stage.status === "open") pieces.push(`${Number(stage.per_minute.toPrecision(3))} a minute`);
    if (stage.eta_s && stage.status === "open") {
      const [from, to] = stage.eta_s.map(time);
      pieces.push(from === to ? `${from} left` : `${from} to ${to} left`);
    }
    if (stage.best) pieces.push(`best ${stage.best.metric} ${number(stage.best.value)} (${stage.best.case})`);
    return make("div", { class: "live-stage" },
      make("span", {}, stage.name, " ", make("span", { class: `status ${stage.status}` }, stage.status)),
      make("progress", { max: String(Math.max(1, stage.expected)), value: String(done), "aria-label": `${stage.name}: ${done} of ${stage.expected} done` }),
      make("span", { class: "note" }, pieces.join(" · ")));
  };

  // Of a trial on a cluster: where it is, or why it waits.
  const job = (trial) => {
    if (!trial.remote) return "";
    const { executor, id, node, started_at } = trial.remote;
    const where = started_at === null ? "queued" : node === null ? "" : `on ${node}`;
    const name = [executor, id].filter((word) => word).join(" ");
    return [where, name].filter((word) => word).join(", ") + (trial.pending_reason ? `: ${trial.pending_reason}` : "");
  };

  // What a running trial said last, the first few values of it.
  const said = (trial) => {
    if (!trial.last_report) return "";
    const values = Object.entries(trial.last_report.metrics).map(([name, value]) => `${name} ${value === null ? "not finite" : number(value)}`);
    return [`step ${trial.last_report.step}`, ...values.slice(0, 4), ...(values.length > 4 ? ["…"] : [])].join(" · ");
  };

  const show = (status) => {
    const alive = status.engine !== null && status.engine.alive;
    const over = status.status === "completed" || status.status === "aborted";
    stop.hidden = !alive || status.draining;
    if (status.draining) say("Draining: what runs finishes, nothing more starts.");
    else if (alive) say(`The engine runs: pid ${status.engine.pid} on ${status.engine.host}.`);
    else if (over) say(`The study is ${status.status}.`);
    else say(`No engine runs the study${status.next_command ? `; go on with: ${status.next_command}` : "."}`);
    const parts = status.stages.filter((stage) => stage.expected > 0).map(stageLine);
    if (status.running.length) {
      const rows = status.running.map((trial) => make("tr", {}, make("td", {}, trial.case), make("td", { class: "n" }, `#${trial.attempt}`), make("td", { class: "n" }, alive ? time(trial.elapsed_s) : trial.remote ? "left on the cluster" : "will run again"), make("td", {}, [alive ? job(trial) : "", said(trial)].filter((words) => words).join(" · "))));
      const more = status.running_not_shown ? [make("p", { class: "note" }, `and ${status.running_not_shown} more`)] : [];
      if (status.cluster_queue) {
        const reasons = Object.entries(status.cluster_queue.reasons).map(([reason, count]) => `${count} ${reason}`);
        more.push(make("p", { class: "note" }, `in the queue: ${reasons.join(", ")}`));
      }
      parts.push(make("div", { class: "live-part" }, make("h2", {}, "Running"), make("table", {}, make("tbody", {}, ...rows)), ...more));
    }
    if (status.last_failures.length) {
      const lines = status.last_failures.map((failure) => make("li", {}, make("code", {}, failure.case), ` #${failure.attempt} `, make("strong", { class: "failed" }, failure.kind), `: ${failure.reason}`));
      parts.push(make("div", { class: "live-part" }, make("h2", {}, "Last failures"), make("ul", {}, ...lines)));
    }
    body.replaceChildren(...parts);
    last = status;
    refresh();
  };

  // The rest of the page: when something happened, not while somebody types into it, and never more than a small part of the time.
  let shown = place.dataset;
  const isNew = () => last.events !== Number(shown.events) || last.status !== shown.status;
  // Curves go on while trials run and nothing else happens.
  const steps = () => JSON.stringify(last.running.filter((trial) => trial.last_report).map((trial) => [trial.case, trial.last_report.step]));
  let drawn = "[]";
  const drawCurves = (page) => {
    const [before, now] = [document, page].map((of) => [...of.querySelectorAll("figure.of-curves")]);
    if (before.length !== now.length || before.some((figure, n) => figure.id !== now[n].id)) return false;
    before.forEach((figure, n) => figure.replaceChildren(...document.adoptNode(now[n]).childNodes));
    return true;
  };
  let busy = false;
  let notBefore = 0;
  let later = 0;
  const typing = () => document.activeElement && document.activeElement.matches("input, select") && document.querySelector("main").contains(document.activeElement);
  const refresh = async () => {
    if (busy || !last || (!isNew() && steps() === drawn) || document.hidden || typing()) return;
    if (performance.now() < notBefore) {
      // The last event of a while is not followed by another one that would ask again.
      clearTimeout(later);
      later = setTimeout(refresh, notBefore - performance.now() + 10);
      return;
    }
    busy = true;
    const begun = performance.now();
    const reported = steps();
    try {
      const answer = await fetch("./", { cache: "no-store" });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const events = page.getElementById("live");
      const [main, top] = [page.querySelector("main"), page.getElementById("top")];
      if (!main || !top || !events) return;
      drawn = reported;
      const same = events.dataset.events === shown.events && events.dataset.status === shown.status;
      if (same && drawCurves(page)) return;
      document.querySelector("main").replaceWith(document.adoptNode(main));
      document.getElementById("top").replaceWith(document.adoptNode(top));
      shown = events.dataset;
      document.dispatchEvent(new Event("piton:page"));
    } catch {
      // The event stream tells of a lost connection.
    } finally {
      busy = false;
      notBefore = performance.now() + Math.max(2000, 10 * (performance.now() - begun));
      refresh();
    }
  };

  listen({ status: show }, say, () => { stop.hidden = true; });
  const ask = stopping(document.getElementById("stop-dialog"), say);
  stop.addEventListener("click", () => ask("stop"));
})();
