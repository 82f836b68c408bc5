// What moves on every page: the theme and the link of the section being read. A page that draws with colours listens
// to "themechange".
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // ---- Theme: automatic (the reader's system), light or dark.
  const dark = document.getElementById("dark");
  const media = {
    automatic: "screen and (prefers-color-scheme: dark)",
    light: "not all",
    dark: "screen",
  };
  let theme = "automatic";

  const announce = () => document.dispatchEvent(new Event("themechange"));

  function setTheme(next) {
    theme = next;
    dark.media = media[theme];
    document.getElementById("theme").textContent = `Theme: ${theme}`;
    announce();
  }

  document.getElementById("theme").addEventListener("click", () => {
    const names = Object.keys(media);
    setTheme(names[(names.indexOf(theme) + 1) % names.length]);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", announce);

  // ---- The link of the section being read.
  const links = new Map(all("nav li a").map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  for (const section of all("section[id], header[id]")) watcher.observe(section);
})();
