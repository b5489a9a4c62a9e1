// The admin page: reads the JSON routes beside it, follows the event stream, draws with the DOM alone.
// Every text that comes from the service is set as text, never as markup.

const API = new URL(document.querySelector("script[src]").dataset.api ?? ".", location.href).pathname.replace(/\/$/, "");
const PHASES = ["quiescing", "grace", "interrupting", "flushing", "stopped"];
const STATES = ["ready", "scheduled", "running", "done", "dead", "cancelled"];
const KEPT_MS = 10 * 60 * 1000;
const PAGE = 50;

const state = { status: null, drain: null, series: new Map(), stream: null, signedIn: false };

// --- drawing -----------------------------------------------------------------------------------------------

function h(tag, attributes, ...children) {
  const svg = ["svg", "polyline", "title"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element[name] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

// Bring `shown` in step with `wanted` in place, so that focus, selection and scroll positions stay.
function patch(shown, wanted) {
  if (shown.nodeType !== wanted.nodeType || shown.nodeName !== wanted.nodeName) return shown.replaceWith(wanted);
  if (shown.nodeType === Node.TEXT_NODE) {
    if (shown.data !== wanted.data) shown.data = wanted.data;
    return;
  }
  for (const { name } of [...shown.attributes]) {
    if (!wanted.hasAttribute(name) && !(name === "open" && shown.nodeName === "DETAILS")) shown.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  for (const handler of ["onclick", "onchange", "onsubmit", "ondrop", "ondragover", "ondragleave"]) shown[handler] = wanted[handler];
  patchChildren(shown, [...wanted.childNodes]);
}

function patchChildren(parent, wanted) {
  wanted.forEach((child, index) => {
    const shown = parent.childNodes[index];
    if (shown) patch(shown, child);
    else parent.append(child);
  });
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}

function draw(place, ...children) {
  patchChildren(place, children.flat(Infinity).filter((child) => child != null && child !== false)
    .map((child) => (typeof child === "string" ? document.createTextNode(child) : child)));
}

const byId = (id) => document.getElementById(id);
const main = byId("main");
const text = (value) => (value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value));
const time = (at) => (at == null ? "" : new Date(at).toLocaleString());
const badge = (label, kind) => h("span", { class: `badge ${kind ?? ""}` }, label);
const alertBox = (kind, ...children) => h("p", { class: `alert ${kind}` }, ...children);
const say = (line) => { byId("announce").textContent = line; };

function table(caption, headings, rows, numbers = []) {
  const kind = (index) => (numbers.includes(index) ? "number" : null);
  return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption }, h("table", {},
    h("caption", {}, caption),
    h("thead", {}, h("tr", {}, headings.map((heading, index) => h("th", { scope: "col", class: kind(index) }, heading)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, index) =>
      h("td", { class: kind(index) }, cell instanceof Node || Array.isArray(cell) ? cell : String(cell ?? ""))))))));
}

function facts(pairs) {
  return h("dl", {}, pairs.filter(([, value]) => value != null && value !== "")
    .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value instanceof Node ? value : String(value)))));
}

// --- asking ------------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, message, body) { super(message); this.status = status; this.body = body; }
}

async function ask(method, path, body, { raw = false } = {}) {
  const options = { method, credentials: "same-origin", headers: {} };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = raw ? body : JSON.stringify(body);
  }
  const answer = await fetch(API + path, options);
  let found = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (found && ["ok", "error"].includes(found.status) && ("result" in found || "error" in found)) {
    found = found.result ?? (found.error && { error: found.error.message });  // the envelope of another server
  }
  if (answer.ok || (found && found.outcome !== undefined)) return found;
  const message = found?.error ?? answer.statusText;
  if (answer.status === 401) signIn(message);
  throw new Refused(answer.status, message, found);
}

// Do what a button asks for; what is refused is shown, never thrown away.
async function act(what, run) {
  byId("alerts").dataset.act = "";
  try {
    const said = await run();
    say(`${what}: ${said ?? "done"}`);
  } catch (error) {
    say(`${what} was refused: ${error.message}`);
    state.refusal = `${what} was refused: ${error.message}`;
  }
  shell();
  await show();
}

// --- the frame ---------------------------------------------------------------------------------------------

const VIEWS = {
  overview: { label: "Overview", draw: overview, live: true },
  reloads: { label: "Reloads", draw: reloads },
  check: { label: "Check a file", draw: check },
  config: { label: "Settings", draw: config },
  jobs: { label: "Jobs", draw: jobs },
  job: { draw: job, of: "jobs" },
  recovery: { label: "Recovery", draw: recovery, live: true },
  drain: { label: "Drain", draw: drain, live: true },
  nodes: { label: "Nodes", draw: nodes, live: true, when: (status) => (status.nodes ?? []).length > 1 },
};

function place() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const [path, query] = rest.join("/").split("?");
  const view = VIEWS[name?.split("?")[0]] ? name.split("?")[0] : "overview";
  return { view, id: decodeURIComponent(path ?? ""), query: new URLSearchParams(query ?? name?.split("?")[1] ?? "") };
}

function shell() {
  const status = state.status;
  if (!status) return;
  const { view } = place();
  document.title = `${status.name}: ${status.phase}`;
  byId("name").textContent = status.name;
  byId("sign-out").hidden = !state.signedIn;
  draw(byId("glance"), ...facts([
    ["phase", badge(status.phase, status.phase === "running" ? "good" : "warn")],
    ["generation", status.generation],
    ["state", status.degraded ? badge("degraded", "bad") : badge("healthy", "good")],
    ["waits for a restart", status.pending_restart.length],
    ["pid", status.pid],
    ["since", time(status.started_at)],
  ]).childNodes);
  draw(byId("views"), ...Object.entries(VIEWS).filter(([, one]) => one.label && (!one.when || one.when(status)))
    .map(([name, one]) => h("a", { href: `#/${name}`, "aria-current": name === view || VIEWS[view].of === name ? "page" : null }, one.label)));
  draw(byId("alerts"),
    state.refusal && alertBox("bad", state.refusal, " ", h("button", { type: "button", onclick: () => { state.refusal = null; shell(); } }, "Dismiss")),
    status.degraded && alertBox("bad", h("strong", {}, "Degraded: "), status.degraded),
    !status.watch.healthy && alertBox("warn", "The file watch is not healthy; changes of the file are seen late."),
    (state.drain ?? status.drain) && alertBox("warn", "This process drains. ", h("a", { href: "#/drain" }, "Follow the drain")));
}

let drawing = 0;
async function show() {
  const { view, id, query } = place();
  const turn = ++drawing;
  try {
    const parts = await VIEWS[view].draw(id, query);
    if (turn === drawing && parts) draw(main, h("h2", {}, VIEWS[view].label ?? `Job ${id}`), ...parts);
  } catch (error) {
    if (turn === drawing && error.status !== 401) draw(main, h("h2", {}, VIEWS[view].label ?? ""), alertBox("bad", error.message));
  }
}

// --- overview ----------------------------------------------------------------------------------------------

function remember(status) {
  const now = Date.now();
  for (const pool of status.pools) {
    const series = state.series.get(pool.name) ?? [];
    series.push([now, pool.running, pool.limit]);
    while (series.length && series[0][0] < now - KEPT_MS) series.shift();
    state.series.set(pool.name, series);
  }
}

function spark(pool) {
  const series = state.series.get(pool.name) ?? [];
  const first = series[0]?.[0] ?? 0;
  const width = Math.max(1, (series.at(-1)?.[0] ?? 0) - first);
  const height = Math.max(1, ...series.map(([, running, limit]) => Math.max(running, limit)));
  const line = (index) => series.map((point) => `${(((point[0] - first) / width) * 300).toFixed(1)},${(58 - (point[index] / height) * 54).toFixed(1)}`).join(" ");
  return h("svg", { class: "spark", viewBox: "0 0 300 60", preserveAspectRatio: "none", role: "img",
    "aria-label": `${pool.name}: ${pool.running} running of a limit of ${pool.limit}` },
  h("polyline", { class: "limit", points: line(2) }), h("polyline", { class: "running", points: line(1) }));
}

function overview() {
  const status = state.status;
  if (!status) return [];
  const last = status.last_reload;
  return [
    h("div", { class: "row" },
      h("button", { type: "button", onclick: () => act("Reload", async () => verdict(await ask("POST", "/config/reload"))) }, "Reload now"),
      h("span", { class: "muted" }, status.config_file)),
    status.pending_restart.length > 0 && table("Fields that wait for a restart", ["field", "running", "on disk", "reason"],
      status.pending_restart.map((one) => [one.path, text(one.running), text(one.on_disk), one.reason])),
    (status.converging ?? []).map((one) => alertBox("warn", `${one.owner}: ${one.running} running, the limit is ${one.limit}; no job is cancelled`)),
    h("h2", {}, "Pools"),
    status.pools.length ? h("div", { class: "cards" }, status.pools.map((pool) => h("section", { class: "card", "data-pool": pool.name },
      h("h3", {}, pool.name), spark(pool),
      h("p", { class: "legend" }, `${pool.running} running of ${pool.limit}, ${pool.waiting} waiting${pool.bound_by ? `, held back by ${pool.bound_by}` : ""}`))))
      : h("p", { class: "muted" }, "This service has no workers."),
    h("h2", {}, "Queues"),
    table("Jobs by queue", ["queue", "ready", "scheduled", "running", "dead", "claiming"], status.queues.map((queue) => [
      h("a", { href: `#/jobs?queue=${encodeURIComponent(queue.name)}` }, queue.name), queue.ready, queue.scheduled, queue.running, queue.dead,
      h("button", { type: "button", onclick: () => act(queue.paused ? `Resume ${queue.name}` : `Pause ${queue.name}`, () =>
        ask("POST", queue.paused ? "/jobs/resume" : "/jobs/pause", { queue: queue.name }).then(() => undefined)) },
      queue.paused ? `Resume ${queue.name}` : `Pause ${queue.name}`)]), [1, 2, 3, 4]),
    h("h2", {}, "Last reload"),
    last ? reloadView(last) : h("p", { class: "muted" }, "No reload since the start."),
    status.last_drain && [h("h2", {}, "Last drain"), drainReport(status.last_drain)],
  ];
}

// --- reloads -----------------------------------------------------------------------------------------------

const OUTCOME = { applied: "good", valid: "good", unchanged: "", rejected: "bad", rolled_back: "bad", refused: "warn" };
const verdict = (report) => (report?.outcome ? `${report.outcome}${report.errors?.length ? `: ${report.errors[0].message}` : ""}` : "asked for");
const spot = (one) => [one.file, one.line, one.column].filter((part) => part != null).join(":");

function problem(one) {
  return h("li", {}, spot(one) && [h("code", {}, spot(one)), " "], one.path && [h("strong", {}, one.path), ": "], one.message,
    one.input != null && ` (got ${one.input})`, one.hint && `; ${one.hint}`, one.source && h("pre", {}, `${String(one.line).padStart(4)} │ ${one.source}`));
}

function reloadView(report) {
  const moved = report.generation !== report.previous_generation;
  return h("section", { class: "card", "data-outcome": report.outcome },
    h("p", {}, badge(report.outcome, OUTCOME[report.outcome]), ` generation ${moved ? `${report.previous_generation} → ${report.generation}` : report.generation}, `,
      `${report.trigger.kind} (${report.trigger.principal}), ${time(report.trigger.at)}, ${(report.timings_ms.total ?? 0).toFixed(1)} ms`),
    report.errors.length > 0 && h("ul", { class: "bad" }, report.errors.map(problem)),
    report.changes.length > 0 && table("Changes", ["field", "old", "new", "effect", "applied by"],
      report.changes.map((one) => [one.path, text(one.old), text(one.new), one.effect, one.owner])),
    report.pending_restart.length > 0 && table("Waits for a restart", ["field", "running", "on disk", "reason"],
      report.pending_restart.map((one) => [one.path, text(one.running), text(one.on_disk), one.reason])),
    report.warnings.length > 0 && h("ul", { class: "warn" }, report.warnings.map(problem)),
    h("p", { class: "muted" }, `id ${report.id}`));
}

async function reloads(_id, query) {
  const from = Number(query.get("from") ?? 0);
  const history = await ask("GET", `/config/history?from=${from}&limit=${PAGE + 1}`);
  const link = (start, label) => h("a", { href: `#/reloads?from=${start}` }, label);
  return [
    h("p", { class: "muted" }, history.length ? `${from + 1} to ${from + Math.min(PAGE, history.length)}, the newest first.` : "No reload is on record."),
    history.slice(0, PAGE).map(reloadView),
    h("p", { class: "row" }, from > 0 && link(Math.max(0, from - PAGE), "Newer"), history.length > PAGE && link(from + PAGE, "Older")),
  ];
}

// --- check a file ------------------------------------------------------------------------------------------

async function check() {
  return [
    h("p", {}, "Paste a configuration file, or drop one: it is compared with what runs. Nothing is applied."),
    h("div", { class: "drop", ondragover: (event) => { event.preventDefault(); event.currentTarget.classList.add("over"); },
      ondragleave: (event) => event.currentTarget.classList.remove("over"), ondrop: dropped },
    h("label", { for: "draft" }, "Configuration file (JSON)"), h("textarea", { id: "draft", spellcheck: "false" }),
    h("div", { class: "row" },
      h("div", {}, h("label", { for: "draft-file" }, "or choose a file"), h("input", { type: "file", id: "draft-file", onchange: (event) => takeFile(event.target.files[0]) })),
      h("button", { type: "button", onclick: () => checkDraft() }, "Check"))),
    state.verdict,
  ];
}

function dropped(event) {
  event.preventDefault();
  event.currentTarget.classList.remove("over");
  takeFile(event.dataTransfer.files[0]);
}

async function takeFile(file) {
  if (!file) return;
  byId("draft").value = await file.text();
  await checkDraft(file.name);
}

function checkDraft(name = "ov.conf") {
  return act("Check", async () => {
    state.verdict = null;
    const report = await ask("POST", `/config/check?name=${encodeURIComponent(name)}`, byId("draft").value, { raw: true });
    state.verdict = h("section", { "aria-label": "Result of the check", id: "verdict" }, h("h2", {}, "Result"), reloadView(report));
    return verdict(report);
  });
}

async function config() {
  const found = await ask("GET", "/config");
  const rows = Object.entries(found.settings).map(([path, value]) => [path, text(value), found.reload[path], found.provenance[path]]);
  return [
    h("p", { class: "muted" }, `${found.config_file}, generation ${found.generation}, ${found.fingerprint}. Secrets are shown as keyed fingerprints.`),
    table("Settings in force", ["field", "value", "takes effect", "comes from"], rows),
  ];
}

// --- jobs --------------------------------------------------------------------------------------------------

async function jobs(_id, query) {
  const asked = new URLSearchParams({ limit: PAGE });
  for (const name of ["queue", "state", "before"]) if (query.get(name)) asked.set(name, query.get(name));
  const found = (await ask("GET", `/jobs?${asked}`)).jobs;
  const queues = (state.status?.queues ?? []).map((queue) => queue.name);
  const next = new URLSearchParams(query);
  if (found.length) next.set("before", found.at(-1).id);
  return [
    h("form", { class: "row", onsubmit: filter },
      choice("queue", "Queue", queues, query.get("queue")), choice("state", "State", STATES, query.get("state")),
      h("div", {}, h("label", { for: "job-id" }, "Job id"), h("input", { id: "job-id", name: "id", inputmode: "numeric", autocomplete: "off" })),
      h("button", { type: "submit" }, "Show")),
    table("Jobs, the newest first", ["id", "queue", "state", "attempts", "interrupted", "crashes", "enqueued", "key", "last reason"],
      found.map((one) => [h("a", { href: `#/job/${encodeURIComponent(one.id)}` }, one.id), one.queue, badge(one.state, one.state === "dead" ? "bad" : ""),
        one.attempts, one.interruptions, one.crashes, time(one.enqueued_at), one.key, one.reason]), [3, 4, 5]),
    found.length === 0 && h("p", { class: "muted" }, "No job matches."),
    found.length === PAGE && h("p", {}, h("a", { href: `#/jobs?${next}` }, "Older")),
  ];
}

function choice(name, label, values, chosen) {
  return h("div", {}, h("label", { for: `filter-${name}` }, label), h("select", { id: `filter-${name}`, name },
    h("option", { value: "" }, "all"), values.map((value) => h("option", { value, selected: value === chosen }, value))));
}

function filter(event) {
  event.preventDefault();
  const form = new FormData(event.target);
  if (form.get("id")) {
    location.hash = `#/job/${encodeURIComponent(form.get("id"))}`;
    return;
  }
  form.delete("id");
  location.hash = `#/jobs?${new URLSearchParams([...form].filter(([, value]) => value))}`;
}

async function job(id) {
  const one = await ask("GET", `/jobs/${encodeURIComponent(id)}`);
  const button = (label, path, enabled, kind) => h("button", { type: "button", class: kind, disabled: !enabled,
    onclick: () => act(`${label} job ${id}`, () => ask("POST", path, { ids: [id] }).then(() => undefined)) }, label);
  return [
    h("div", { class: "row" }, button("Retry", "/jobs/retry", one.state === "dead"),
      button("Cancel", "/jobs/cancel", ["ready", "scheduled", "running"].includes(one.state), "danger"),
      button("Discard", "/jobs/discard", one.state !== "running", "danger")),
    facts([["queue", one.queue], ["state", badge(one.state, one.state === "dead" ? "bad" : "")], ["priority", one.priority],
      ["attempts", `${one.attempts} of ${one.max_attempts}`], ["interruptions", one.interruptions], ["crashes", one.crashes],
      ["key", one.key], ["enqueued", time(one.enqueued_at)], ["due", time(one.run_at)], ["ended", time(one.ended_at)]]),
    one.reason && [h("h3", {}, "Last reason"), h("pre", {}, one.reason)],
    one.history?.length > 0 && [h("h3", {}, "History"), table("What befell this job", ["when", "event", "reason"],
      one.history.map((event) => [time(event.at), event.event, event.reason]))],
    one.traceback && [h("h3", {}, "Traceback"), h("pre", { tabindex: "0" }, one.traceback)],
    [["Payload", one.payload], ["Progress (last checkpoint)", one.progress], ["Result", one.result]]
      .filter(([, value]) => value != null).map(([label, value]) => [h("h3", {}, label), h("pre", { tabindex: "0" }, JSON.stringify(value, null, 2))]),
  ];
}

// --- recovery, drain, nodes --------------------------------------------------------------------------------

function recovery() {
  const searches = state.status?.recovery ?? [];
  const search = (dry) => act(dry ? "Search" : "Search and queue", async () => {
    const found = await ask("POST", "/reindex", { dry_run: dry });
    state.found = found;
    return `${(found.missing ?? []).length} missing`;
  });
  const found = state.found;
  return [
    h("div", { class: "row" }, h("button", { type: "button", onclick: () => search(true) }, "Look for what is missing"),
      h("button", { type: "button", onclick: () => search(false) }, "Queue what is missing")),
    found && [h("h3", {}, `${found.scanned ?? 0} looked at, ${(found.missing ?? []).length} missing, ${found.queued ?? 0} queued`),
      table("Missing", ["what", "why"], (found.missing ?? []).slice(0, 1000).map((one) => [one.id ?? one.uri, one.reason]))],
    table("Searches", ["below", "looked at", "queued", "already queued", "passed over", "missing by reason", "error"],
      searches.map((one) => [one.uri ?? "everything", one.scanned, one.queued, one.already_queued, one.passed_over, text(one.reasons), one.error]), [1, 2, 3, 4]),
  ];
}

function drainReport(report) {
  const count = (name) => (report[name] ?? []).length;
  return h("section", { class: "card", "data-drain": report.id },
    h("p", {}, badge(report.lost ? "jobs lost" : "nothing lost", report.lost ? "bad" : "good"),
      ` ${report.reason}: ${(report.elapsed_s ?? 0).toFixed(2)} s of ${report.deadline_s} s`, report.reconstructed ? " (cut; found by the next start)" : ""),
    facts([["finished", count("finished")], ["requeued", count("requeued")], ["with a checkpoint", count("checkpointed")],
      ["abandoned", count("abandoned")], ["lost", report.lost]]),
    (report.stuck ?? []).map((line) => h("pre", {}, line)));
}

function drain() {
  const now = state.drain ?? state.status?.drain;
  const last = state.report ?? state.status?.last_drain;
  if (!now) {
    return [last ? drainReport(last) : h("p", { class: "muted" }, "No drain is on record."),
      h("h3", {}, "Stop this service"),
      h("p", {}, "Nothing new is claimed, running jobs get a grace, the rest goes back to the queue with its checkpoints, then the process ends."),
      h("button", { type: "button", class: "danger", onclick: startDrain }, "Drain and stop")];
  }
  const left = (now.remaining ?? []).length;
  const total = Math.max(left, now.jobs_at_start ?? 0);
  return [
    h("ol", { class: "phases" }, PHASES.map((phase) => h("li", { "aria-current": phase === now.phase ? "step" : null }, phase))),
    h("label", { for: "drain-time" }, `${Math.max(0, now.left_s ?? 0).toFixed(1)} s left of ${now.deadline_s} s`),
    h("progress", { id: "drain-time", max: now.deadline_s, value: Math.max(0, now.deadline_s - (now.left_s ?? 0)) }),
    h("label", { for: "drain-jobs" }, `${left} of ${total} jobs still run`),
    h("progress", { id: "drain-jobs", max: Math.max(1, total), value: total - left }),
    left > 0 && table("Jobs that still run", ["job", "queue", "what it does"], now.remaining.map((one) => [one.id, one.what, one.why])),
    state.report && [h("h3", {}, "Report"), drainReport(state.report)],
  ];
}

function startDrain() {
  if (!confirm("Drain this service? The process ends at the drain's deadline at the latest.")) return;
  act("Drain", async () => { state.drain = await ask("POST", "/drain", {}); });
}

function nodes() {
  const list = state.status?.nodes ?? [];
  return [table("Nodes on the shared store", ["node", "phase", "generation", "fingerprint", "last seen", "configuration"],
    list.map((one) => [
      one.own ? `${one.name} (this one)` : one.name,
      one.alive ? one.phase ?? "starting" : badge("gone", "bad"),
      one.generation,
      one.fingerprint,
      time(one.seen_at),
      one.differs ? badge("differs", "warn") : "",
    ]), [2])];
}

// --- signing in --------------------------------------------------------------------------------------------

function signIn(message) {
  state.stream?.close();
  state.stream = state.status = null;
  state.signedIn = false;
  byId("sign-out").hidden = true;
  for (const id of ["glance", "views", "alerts"]) byId(id).replaceChildren();
  byId("connection").textContent = "";
  if (byId("key")) {
    byId("sign-in-error").textContent = message ?? "";
    return;
  }
  main.replaceChildren(h("h2", {}, "Sign in"),
    h("form", { onsubmit: submitKey },
      h("input", { type: "text", name: "username", value: "root", autocomplete: "username", hidden: true, "aria-hidden": "true", tabindex: "-1" }),
      h("label", { for: "key" }, "Root key"),
      h("input", { id: "key", type: "password", autocomplete: "current-password", required: true, "aria-describedby": "sign-in-error" }), " ",
      h("button", { type: "submit" }, "Sign in"),
      h("p", { id: "sign-in-error", class: "bad", role: "alert" }, "")));
  byId("key").focus();
}

async function submitKey(event) {
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  try {
    const answer = await fetch(`${API}/session`, { method: "POST", credentials: "same-origin",
      headers: { "Content-Type": "application/json" }, body: JSON.stringify({ key: byId("key").value }) });
    if (answer.ok) return await start();
    const found = await answer.json().catch(() => ({}));
    byId("sign-in-error").textContent = found.error ?? answer.statusText;
  } catch (error) {
    byId("sign-in-error").textContent = error.message;
  } finally {
    button.disabled = false;
  }
}

byId("sign-out").onclick = async () => {
  await fetch(`${API}/session`, { method: "DELETE", credentials: "same-origin" });
  signIn("Signed out.");
};

// --- following ---------------------------------------------------------------------------------------------

function follow() {
  state.stream?.close();
  const stream = (state.stream = new EventSource(`${API}/events`));
  stream.addEventListener("status", (event) => heard(JSON.parse(event.data)));
  stream.addEventListener("reload", async (event) => {
    const report = JSON.parse(event.data);
    say(`Reload ${verdict(report)}`);
    await refresh();
    if (["reloads", "config"].includes(place().view)) await show();
  });
  stream.addEventListener("drain", (event) => {
    const found = JSON.parse(event.data);
    if (found && "lost" in found) state.report = found;
    else state.drain = found;
    shell();
    if (VIEWS[place().view].live) show();
  });
  stream.onopen = () => { byId("connection").textContent = ""; };
  stream.onerror = () => lost(stream);
}

function lost(stream) {
  if (stream !== state.stream) return;
  stream.close();
  byId("connection").textContent = "The connection to the service is lost; trying again.";
  state.retry = setTimeout(async () => {
    try {
      await start();
    } catch {
      lost(state.stream);
    }
  }, 1000);
}

function heard(status) {
  const restarted = state.status && state.status.pid !== status.pid;
  if (restarted) state.drain = state.report = null;
  state.status = status;
  if (status.drain) state.drain = status.drain;
  remember(status);
  shell();
  if (VIEWS[place().view].live) show();
}

async function refresh() {
  heard(await ask("GET", "/status"));
}

async function start() {
  const status = await fetch(`${API}/status`, { credentials: "same-origin" });
  if (status.status === 401 || status.status === 403) {
    const found = await status.json().catch(() => ({}));
    return signIn(status.status === 403 ? found.error?.message ?? found.error : "");
  }
  if (!status.ok) throw new Error(status.statusText);
  const who = await fetch(`${API}/session`, { credentials: "same-origin" });
  state.signedIn = who.ok && (await who.json()).signed_in;
  await refresh();
  byId("connection").textContent = "";
  follow();
  await show();
}

addEventListener("hashchange", async () => {
  if (!state.status) return;
  state.verdict = null;
  shell();
  main.replaceChildren();
  await show();
  main.focus();
});

start().catch(() => lost(state.stream));
