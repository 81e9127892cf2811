/* A page on disk may fetch no other, so a search there shows titles, and no lines from the pages.
   Where it quotes, it leaves out formulas, which in the source of a page are TeX. */
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

{
  const quote = Search.htmlToText;
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    for (const formula of page.querySelectorAll(".math")) formula.textContent = "\u2026";
    return quote(page.documentElement.outerHTML, anchor);
  };
}
