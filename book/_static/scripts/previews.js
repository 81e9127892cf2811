/* Show what a term or a citation says while the pointer or the keyboard is on its link. The texts
   stand in previews-data.js, which book/_ext/previews.py writes. A tap follows the link as ever. */
{
  const box = document.createElement("div");
  box.id = "book-preview";
  box.setAttribute("role", "tooltip");
  box.hidden = true;
  document.body.append(box);

  let shown = null; // the link that the box speaks of
  let timer = 0; // one for showing and hiding: what was asked last counts

  function hide() {
    clearTimeout(timer);
    shown?.removeAttribute("aria-describedby");
    shown = null;
    box.hidden = true;
  }

  function show(link, text) {
    hide();
    shown = link;
    box.textContent = text;
    box.hidden = false;
    link.setAttribute("aria-describedby", box.id);
    const lines = [...link.getClientRects()]; // a link may be broken across lines
    const page = document.documentElement;
    const left = Math.min(lines.at(-1).left, page.clientWidth - box.offsetWidth - 8);
    const below = lines.at(-1).bottom + 4;
    const fits = below + box.offsetHeight < window.innerHeight;
    const top = fits ? below : lines[0].top - box.offsetHeight - 4;
    box.style.left = `${Math.max(left, 8) + window.scrollX}px`;
    box.style.top = `${top + window.scrollY}px`;
  }

  function later(action, milliseconds) {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  }

  for (const link of document.querySelectorAll(".bd-article a.internal[href*='.html#']")) {
    const page = link.pathname.split("/").at(-1).replace(".html", "");
    const text = window.bookPreviews?.[page + decodeURIComponent(link.hash)];
    if (!text) continue;
    link.removeAttribute("title"); // else the browser shows the same text a second time
    link.addEventListener("pointerenter", (event) => {
      if (event.pointerType !== "touch") later(() => show(link, text), 150);
    });
    link.addEventListener("focus", () => {
      if (link.matches(":focus-visible")) show(link, text);
    });
    link.addEventListener("pointerleave", () => later(hide, 200));
    link.addEventListener("blur", hide);
  }

  // The pointer may rest on the box, to read or to copy.
  box.addEventListener("pointerenter", () => clearTimeout(timer));
  box.addEventListener("pointerleave", () => later(hide, 200));
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  window.addEventListener("resize", hide);
}
