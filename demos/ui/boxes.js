// A word lights up its boxes, a box its words: whatever the pointer or the focus is on.
// One listener for the whole page, as results come and go.
(() => {
  const parts = "[data-phrase], [data-box]";
  let last = null;

  const sourceOf = (target) => {
    const source = target instanceof Element ? target.closest(parts) : null;
    return source?.closest("[data-scene]") ? source : null;
  };

  const together = (source, other) => {
    const oneBox = source.dataset.box !== undefined && other.dataset.box !== undefined;
    if (oneBox) return source.dataset.box === other.dataset.box;
    return source.dataset.phrase === other.dataset.phrase && source.dataset.phrase !== "-1";
  };

  const light = (source) => {
    if (source === last && (source === null || source.classList.contains("lit"))) return;
    last = source;
    for (const old of document.querySelectorAll("[data-scene] .lit, [data-scene].asked")) {
      old.classList.remove("lit", "asked");
    }
    if (!source) return;
    const scope = source.closest("[data-scene]").dataset.scene;
    for (const root of document.querySelectorAll(`[data-scene="${CSS.escape(scope)}"]`)) {
      root.classList.add("asked");
      for (const other of root.querySelectorAll(parts)) {
        if (together(source, other)) other.classList.add("lit");
      }
    }
  };

  const look = (event) => light(sourceOf(event.target) ?? sourceOf(document.activeElement));
  for (const name of ["pointerover", "focusin", "click"]) document.addEventListener(name, look);
  document.addEventListener("focusout", () => light(null));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !sourceOf(event.target)) return;
    event.target.blur();
    light(null);
  });
})();
