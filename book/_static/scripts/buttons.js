/* What the theme's buttons do when pressed. The theme says so in attributes, which the policy of
   the pages does not allow; book/_ext/security.py takes those out. */
for (const button of document.querySelectorAll(".btn-fullscreen-button")) {
  button.addEventListener("click", () => window.toggleFullScreen());
}
for (const button of document.querySelectorAll(".btn-download-pdf-button")) {
  button.addEventListener("click", () => window.print());
}

/* Paper is white in dark mode, too. Printing is told by events, and to tests by a change of media. */
{
  const page = document.documentElement;
  let onScreen = "";
  const prepare = (isPaper) => {
    if (isPaper === Boolean(onScreen)) return;
    const theme = isPaper ? "light" : onScreen;
    onScreen = isPaper ? page.dataset.theme : "";
    page.dataset.theme = theme;
  };
  addEventListener("beforeprint", () => prepare(true));
  addEventListener("afterprint", () => prepare(false));
  matchMedia("print").addEventListener("change", ({ matches }) => prepare(matches));
}
