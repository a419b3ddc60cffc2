"""Hands on the keyboard: Ctrl+Enter (or Cmd+Enter) runs, 1-9 open a tab; copying a link, saving a file.

One script in the page's head, as Gradio runs no script that stands in its HTML.
"""

HEAD = """
<script>
(() => {
  const visible = (element) => element.offsetParent !== null;
  const typing = (target) =>
    target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName);

  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
      const run = [...document.querySelectorAll("button.atelier-run")].find(visible);
      if (run) {
        event.preventDefault();
        document.activeElement?.blur();  // a text field hands over its value when it is left
        setTimeout(() => run.click(), 50);
      }
      return;
    }
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (plain && /^[1-9]$/.test(event.key) && !typing(event.target)) {
      const tabs = document.querySelectorAll('#atelier-tabs > .tab-wrapper [role="tab"]');
      tabs[Number(event.key) - 1]?.click();
    }
  });

  const copy = async (text) => {
    if (navigator.clipboard && window.isSecureContext) {
      try { await navigator.clipboard.writeText(text); return true; } catch { /* try the old way */ }
    }
    const area = document.createElement("textarea");  // over plain http there is no clipboard
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  };

  window.atelier = {
    save(file) {  // what a button has just made
      const link = document.createElement("a");
      link.href = file.url;
      link.download = file.orig_name || file.path.split("/").pop();
      link.click();
    },
    async copyLink(query) {
      const link = location.origin + location.pathname + "?" + query;
      const copied = await copy(link);
      history.replaceState(null, "", "?" + query);  // the address bar shows it in any case
      const button = [...document.querySelectorAll("button.atelier-link")].find(visible);
      if (!button) return;
      const label = button.textContent;
      button.textContent = copied ? "Copied" : "Link is in the address bar";
      setTimeout(() => { button.textContent = label; }, 1800);
    },
  };
})();
</script>
"""
