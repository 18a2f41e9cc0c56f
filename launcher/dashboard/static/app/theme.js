// The chosen theme, before the first paint: dark, light, or what the browser prefers. Not a module, which would come later.
(() => {
  const chosen = localStorage.getItem("shardtune.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
})();
