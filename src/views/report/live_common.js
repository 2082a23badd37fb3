// What every page needs that a server keeps up to date: durations, the stream of events, and the question before a stop.
"use strict";
const time = (seconds) => {
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
};
// Each event of such a name has JSON.
const listen = (events, say, lost) => {
  const source = new EventSource("events");
  for (const [name, take] of Object.entries(events)) source.addEventListener(name, (event) => take(JSON.parse(event.data)));
  source.addEventListener("trouble", (event) => say(event.data));
  source.onerror = () => {
    say("The connection is lost; trying again.");
    lost();
    // A browser gives up on an answer that is no stream.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000);
  };
};
// What it gives asks first, and then sends the request to an address.
const stopping = (dialog, say) => {
  let address = null;
  dialog.addEventListener("close", async () => {
    if (dialog.returnValue !== "stop") return;
    dialog.returnValue = "";
    try {
      const answer = await fetch(address, { method: "POST" });
      say(await answer.text());
    } catch {
      say("The request did not get through.");
    }
  });
  return (to) => { address = to; dialog.showModal(); };
};
