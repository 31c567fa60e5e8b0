// Runs in every page before the page's own scripts, and notes all that a person
// could have read on it: only so can a test say what was never to be seen.
(() => {
  "use strict";
  if (window.observer) return;

  const text = (selector) => document.querySelector(selector)?.textContent ?? "";

  const now = () => {
    const page = document.querySelector("[data-joined]");
    if (!page || document.readyState === "loading") return null;
    const mark = text("mark");
    const field = document.querySelector("input[name=username]");
    return {
      users: Number(/^(\d+) user\(s\) online$/.exec(mark)?.[1] ?? -1),
      names: [...document.querySelectorAll("[data-key] .name")].map((name) => name.textContent),
      aside: text(".aside"),
      as: text(".you strong"),
      stale: page.dataset.stale === "true",
      link: document.documentElement.dataset.link ?? "",
      error: text("#username-error"),
      notice: text(".alert"),
      typed: field?.value ?? "",
      caret: field === document.activeElement && field ? field.selectionStart : -1,
      served: text(".served"),
      unsent: text(".unsent"),
      again: document.querySelector(".again:not([hidden])")?.textContent ?? "",
    };
  };

  // Comparable between the pages of one machine, and with its clock.
  const at = () => performance.timeOrigin + performance.now();

  const history = [];
  let pressed = -Infinity; // when a form was last sent, or tried
  let switched = -Infinity; // when one button took the place of the other
  let last = "";
  const note = () => {
    const sight = now();
    const key = JSON.stringify(sight);
    if (!sight || key === last) return;
    last = key;
    if (history.at(-1)?.as !== sight.as) switched = at();
    history.push({ ...sight, at: at() });
  };
  const everything = { attributes: true, characterData: true, childList: true, subtree: true };
  new MutationObserver(note).observe(document, everything);
  document.addEventListener("readystatechange", note);

  window.observer = { now: () => { const sight = now(); return sight && { ...sight, at: at() }; }, history, clicked: 0, shifts: [] };
  // Whether a press counts, and is no accident: as in page.js.
  const calming = () => document.documentElement.classList.contains("calming");
  window.observer.calm = () => at() - pressed > 500 && at() - switched > 500 && !calming();
  window.addEventListener("submit", () => { pressed = at(); }, true);
  document.addEventListener("click", () => { window.observer.clicked = at(); }, true);

  // What moved, though nobody had pressed anything.
  new PerformanceObserver((list) => {
    for (const shift of list.getEntries()) {
      if (!shift.hadRecentInput) window.observer.shifts.push(...shift.sources.map(({ node }) => node?.parentElement?.outerHTML.slice(0, 120) ?? "something"));
    }
  }).observe({ type: "layout-shift", buffered: true });
  document.addEventListener("securitypolicyviolation", (event) => {
    console.error(`the policy forbids ${event.violatedDirective}: ${event.blockedURI}`);
  });
})();
